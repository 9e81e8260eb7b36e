"""Which versions may take an alias, by a model whose bounds are known and whose rows are chosen."""

from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elbod.generators import checkpoint
from elbod.training import gate, recipes
from elbod.training.errors import NotPromoted
from elbod.training.gate import promote_if_not_worse
from elbod.training.worker import run_training
from elbod_store import Conflict, Manifest, ModelStore
from tests.support import LEVELS, LINEAR, build_generator, call_elbod, draft

N = 400


class Shifted:
    """Versions of one linear model whose means are moved by m units along directions of its own covariance.

    On the rows, which have its mean and its covariance, a version is worse by t = sqrt(m n) / 2 standard errors for
    each direction it is moved along, and by sqrt(k) t for k of them.
    """

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.model: Any = build_generator(LINEAR)
        loadings, noise = self.model.loadings.double(), self.model.noise.double()
        covariance = loadings @ loadings.mT + noise**2 * torch.eye(6, dtype=torch.float64)
        self.factor = torch.linalg.cholesky(covariance)
        e = torch.from_numpy(np.random.default_rng(0).standard_normal((N, 6)))
        e -= e.mean(0)
        e = e @ torch.linalg.inv(torch.linalg.cholesky(e.mT @ e / (N - 1)).mT)
        self.rows: Tensor = e @ self.factor.mT + self.model.location

    def publish(self, directions: int, errors: float) -> Manifest:
        """Moved along so many directions, by `errors` paired standard errors each."""
        moved = build_generator(LINEAR)
        moved.location += self.factor[:, :directions].sum(1) * (2 * errors / N**0.5)  # type: ignore[union-attr]
        return self.store.publish(replace(draft("linear", LINEAR), weights=checkpoint.save(moved)))

    def offer(self, version: Manifest) -> gate.Verdict | None:
        return promote_if_not_worse(self.store, version, "live", self.rows, 256, who="ada", why="a test")

    @property
    def aliases(self) -> dict[str, int]:
        return self.store.aliases("linear")


@pytest.fixture
def shifted(store: ModelStore) -> Shifted:
    return Shifted(store)


def test_the_first_version_passes_and_is_the_best(shifted: Shifted) -> None:
    assert shifted.offer(shifted.publish(1, 50)) is None
    assert shifted.aliases == {"live": 1, "live-best": 1}


def test_a_version_that_is_a_little_worse_passes_and_is_not_the_best(shifted: Shifted) -> None:
    shifted.offer(shifted.publish(0, 0))
    verdict = shifted.offer(shifted.publish(1, 1.9))
    assert verdict is not None
    assert verdict.difference == pytest.approx(-1.9 * verdict.standard_error, rel=0.02)
    assert shifted.aliases == {"live": 2, "live-best": 1}


def test_a_version_that_is_worse_is_refused_and_the_alias_stays(shifted: Shifted) -> None:
    shifted.offer(shifted.publish(0, 0))
    with pytest.raises(NotPromoted, match=r"linear@2 is published, but not live: .* worse, -.* against linear@1"):
        shifted.offer(shifted.publish(1, 2.1))
    assert shifted.aliases == {"live": 1, "live-best": 1}


def test_many_small_losses_do_not_pass_one_by_one(shifted: Shifted) -> None:
    """Each is 1.3 errors worse than the one before; the third is 2.25 worse than the first."""
    for directions in range(3):
        shifted.offer(shifted.publish(directions, 1.3))
    assert shifted.aliases == {"live": 3, "live-best": 1}
    with pytest.raises(NotPromoted, match="against linear@1"):
        shifted.offer(shifted.publish(3, 1.3))


def test_a_better_version_is_the_new_best(shifted: Shifted) -> None:
    shifted.offer(shifted.publish(1, 10))
    verdict = shifted.offer(shifted.publish(0, 0))
    assert verdict is not None
    assert verdict.difference > 0
    assert shifted.aliases == {"live": 2, "live-best": 2}


def test_before_the_first_gate_all_that_held_the_alias_count(shifted: Shifted) -> None:
    for directions in (0, 4):
        version = shifted.publish(directions, 5).version
        shifted.store.promote("linear", "live", version, who="ada", why="by hand")
    with pytest.raises(NotPromoted, match="against linear@1"):
        shifted.offer(shifted.publish(1, 3))


def test_what_cannot_be_compared_is_refused(shifted: Shifted) -> None:
    shifted.offer(shifted.publish(0, 0))
    other = shifted.store.publish(draft("linear", LEVELS))
    with pytest.raises(NotPromoted, match=r"events of shape \(8, 8\), linear@1 \(6,\)"):
        shifted.offer(other)
    assert shifted.aliases == {"live": 1, "live-best": 1}


def test_densities_over_different_supports_are_not_compared(tmp_path: Path) -> None:
    """Both are densities of events of one shape: over the real numbers, and over the unit interval."""
    np.savez(tmp_path / "unit.npz", x=np.random.default_rng(0).random((400, 3)))

    def train(*arguments: str) -> "CompletedProcess[str]":
        common = ["train", "--data", "unit.npz", "--store", str(tmp_path / "store"), "--name", "mine"]
        small = ["--set", "latent_dim=1", "--set", "num_samples=2", "--set", "num_importance_samples=2"]
        return call_elbod([*common, "--alias", "live", "--gate", *small, *arguments], tmp_path, {"COLUMNS": "200"})

    first = train("--family", "ppca", "--likelihood", "gaussian")
    assert first.returncode == 0, first.stderr
    for again in (True, False):
        network = ["--set", "hidden=4", "--epochs", "1", "--seed", str(int(again))]
        other = train("--family", "vae", "--likelihood", "continuous_bernoulli", *network)
        assert other.returncode == 1
        assert "it has the support the interval [0, 1], mine@1 the real numbers" in other.stderr
    store = ModelStore.open(tmp_path / "store")
    assert store.versions("mine") == [1, 2, 3]
    assert store.aliases("mine") == {"live": 1, "live-best": 1}


def test_an_alias_that_is_moved_meanwhile_is_left_alone(shifted: Shifted, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted.offer(shifted.publish(1, 1))
    better, by_hand = shifted.publish(0, 0), shifted.publish(0, 0)
    score = gate.score

    def slow(*arguments: Any) -> Any:
        if shifted.aliases["live"] == 1:
            shifted.store.promote("linear", "live", by_hand.version, who="eve", why="in between")
        return score(*arguments)

    monkeypatch.setattr(gate, "score", slow)
    with pytest.raises(Conflict):
        shifted.offer(better)
    assert shifted.aliases["live"] == by_hand.version


def test_the_best_version_is_kept_whatever_is_retired(store: ModelStore, table: str) -> None:
    good = recipes.custom("ppca", "gaussian", table)
    bad = recipes.override(recipes.custom("vae", "gaussian", table), ["epochs=1", "hidden=2", "latent_dim=1"])
    run_training(recipes.override(good, ["latent_dim=1"]), store, name="mine", alias="live", gated=True, keep=1)
    for _ in range(2):
        with pytest.raises(NotPromoted):
            run_training(bad, store, name="mine", alias="live", gated=True, keep=1)
    assert store.versions("mine") == [1, 3]
    assert store.aliases("mine") == {"live": 1, "live-best": 1}
