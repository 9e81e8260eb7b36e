from pathlib import Path

import numpy as np
import pytest

from elbod.training import recipes
from elbod.training.recipes import Recipe
from elbod_store import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore.open(tmp_path / "store", cache_dir=tmp_path / "cache")


@pytest.fixture(scope="session")
def small() -> Recipe:
    """The digits with a network and a training that take a moment."""
    network = ["hidden=32", "latent_dim=4", "dropout=0"]
    training = ["epochs=4", "batch_size=64", "learning_rate=1e-3", "evaluate_every=1", "kl_warmup_epochs=0"]
    evaluation = ["num_samples=4", "num_importance_samples=8"]
    return recipes.override(recipes.recipe("digits"), [*network, *training, *evaluation])


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A file of 400 correlated rows of three real columns."""
    generator = np.random.default_rng(0)
    z = generator.standard_normal((400, 1))
    x = z * [1.0, -2.0, 0.5] + 0.1 * generator.standard_normal((400, 3)) + [3, 0, 0]
    np.savez(tmp_path / "table.npz", x=x)
    return str(tmp_path / "table.npz")
