"""Every likelihood trains, is published, loads and answers: from a file of rows to samples and bounds."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from elbod.engine.admission import Limits
from elbod.engine.backends.eager import EagerBackend
from elbod.engine.compute import Compute
from elbod.engine.jobs import Job, Samples, Scores, Verb
from elbod.engine.loading import Resident, load
from elbod.generators.likelihoods import make_likelihood
from elbod.training import recipes
from elbod.training.errors import InvalidDataset
from elbod.training.worker import run_training
from elbod_store import ModelStore

BACKEND = EagerBackend()
SHAPE = (3, 2)


def _rows(likelihood: str) -> np.ndarray:
    """(400, 3, 2) rows of one cause, in the support: both edges occur."""
    noise = np.random.default_rng(0)
    share = np.clip(noise.random((400, 1, 1)) + 0.1 * noise.standard_normal((400, *SHAPE)), 0, 1)
    return share if likelihood == "continuous_bernoulli" else np.rint(4 * share).astype(np.uint8)


@pytest.fixture(scope="module", params=["categorical", "discretized_logistic_mixture", "continuous_bernoulli"])
def resident(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Resident:
    """A model of two epochs, published by the worker and loaded as the service loads it."""
    folder = tmp_path_factory.mktemp(request.param)
    np.savez(folder / "rows.npz", x=_rows(request.param))
    recipe = recipes.custom("vae", request.param, str(folder / "rows.npz"))
    small = ["epochs=2", "latent_dim=2", "hidden=16", "num_samples=2", "num_importance_samples=4"]
    store = ModelStore.open(folder / "store")
    manifest = run_training(recipes.override(recipe, small), store, name="tiny", device="cpu")
    return load(store, manifest, BACKEND)


@pytest.fixture
def engine() -> Iterator[Compute]:
    engine = Compute(BACKEND, Limits())
    engine.start()
    yield engine
    assert engine.drain(30)


def _samples(engine: Compute, resident: Resident, job: Job) -> Samples:
    value = engine.submit(job, resident).result(60).value
    assert isinstance(value, Samples)
    return value


def test_a_trained_model_is_recorded_by_its_name_and_levels(resident: Resident) -> None:
    """The blueprint needs nothing else: equal bytes for a row in any tile, and the reference scores again at load."""
    manifest = resident.manifest
    density = manifest.likelihood == "continuous_bernoulli"
    assert manifest.levels == (None if density else 5)
    assert manifest.metrics["measure"] == ("density" if density else "pmf")
    assert np.isfinite(manifest.metrics["elbo"])
    assert resident.description.reproducible


def test_scores_are_bounds_in_their_measure(engine: Compute, resident: Resident) -> None:
    """Finite, below the bound of more weights on average, and in bits only where the pmf has them."""
    x = _rows(resident.manifest.likelihood)[:50]
    job = Job(verb=Verb.ELBO, rows=50, seed=1, x=x, num_samples=8, num_importance_samples=32)
    value = engine.submit(job, resident).result(60).value
    assert isinstance(value, Scores)
    elbo, iwae = value.columns["elbo"], value.columns["iwae"]
    assert elbo is not None
    assert iwae is not None
    assert np.isfinite(elbo).all()
    assert elbo.mean() < iwae.mean()
    bits = value.columns.get("bits_per_dim")
    if resident.generator.likelihood.measure == "density":
        assert bits is None
    else:
        np.testing.assert_allclose(bits, -elbo / (6 * np.log(2)))
        assert (elbo < 0).all()


@pytest.mark.parametrize("output", ["sample", "mean"])
def test_samples_lie_in_the_support_and_are_the_same_in_one_call_or_two(
    engine: Compute, resident: Resident, output: str
) -> None:
    """Means lie within the range of the support, and draws take more than one value."""
    whole = Job(verb=Verb.SAMPLE, rows=30, seed=4, output="mean" if output == "mean" else "sample")
    parts = [replace(whole, rows=13), replace(whole, rows=17, first_index=13)]
    together = _samples(engine, resident, whole)
    apart = [_samples(engine, resident, part) for part in parts]
    assert np.concatenate([part.x for part in apart]).tobytes() == together.x.tobytes()
    likelihood = resident.generator.likelihood
    if output == "sample":
        assert torch.from_numpy(together.x).dtype == likelihood.dtype
        assert likelihood.supports(torch.from_numpy(together.x)).all()
        assert len(np.unique(together.x)) > 2
    else:
        assert together.x.min() >= 0
        assert together.x.max() <= (likelihood.levels or 2) - 1


def test_data_outside_the_interval_are_refused_by_name(tmp_path: Path) -> None:
    """Bytes are no numbers between 0 and 1: divide them first."""
    np.savez(tmp_path / "rows.npz", x=np.arange(800).reshape(400, 2) % 256)
    recipe = recipes.custom("vae", "continuous_bernoulli", str(tmp_path / "rows.npz"))
    with pytest.raises(InvalidDataset, match=r"x\[1\] has value 2 at \(0\).*the interval \[0, 1\]"):
        run_training(recipe, ModelStore.open(tmp_path / "store"), device="cpu")
    assert make_likelihood("continuous_bernoulli", (2,), None).support == "the interval [0, 1]"
