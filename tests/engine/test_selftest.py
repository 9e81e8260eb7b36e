"""The proof at load that batches do not change bytes."""

import math
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_safetensors

from elbod.engine import selftest
from elbod.engine.admission import Limits
from elbod.engine.backends.eager import EagerBackend
from elbod.engine.compute import Compute
from elbod.engine.jobs import Job, Scores, Verb
from elbod.engine.loading import Resident, load
from elbod.engine.selftest import Proved, SelfTest
from elbod.errors import ModelFailure
from elbod.generators.base import Walk
from elbod.generators.likelihoods import BernoulliObservation, Observation
from elbod.generators.vae import VAE
from elbod_store import Draft, ModelStore


class _Leaky:
    """A VAE whose rows see each other, or their place, or the size of the batch."""

    def __init__(self, inner: VAE, leak: str) -> None:
        self.inner, self.leak = inner, leak
        for name in (
            "encode",
            "posterior",
            "prior",
            "begin",
            "likelihood",
            "latent_dim",
            "event_shape",
            "levels",
            "null_label",
        ):
            setattr(self, name, getattr(inner, name))
        self.blueprint, self.conditional = inner.blueprint, inner.conditional
        self.log_evidence, self.expected_log_likelihood = inner.log_evidence, inner.expected_log_likelihood

    def observe(self, walk: Walk, label: torch.Tensor | None = None) -> Observation:
        z = walk.z
        if self.leak == "company":
            z = z + 1e-3 * z.mean()
        elif self.leak == "position":
            z = z + 1e-3 * torch.arange(len(z))[:, None]
        elif self.leak == "size":
            z = z + 1e-3 * len(z)
        return self.inner.decode(z)


def _proved(backend: EagerBackend, generator: Any) -> Proved:
    dimensions: int = generator.latent_dim
    return SelfTest(backend, generator, dimensions, backend.tiles).run(backend.wide_tiles)


@pytest.mark.parametrize(("leak", "left"), [("none", None), ("company", 0), ("position", 0), ("size", 1)])
def test_only_sizes_whose_rows_have_equal_bytes_are_proved(
    backend: EagerBackend, residents: dict[str, Resident], leak: str, left: int | None
) -> None:
    inner: Any = residents["levels"].generator
    proved = _proved(backend, _Leaky(inner, leak)).sizes
    if left is None:
        assert proved == _named(residents["levels"])
    else:
        # Where the size alone decides, the largest one still agrees with itself.
        assert proved == EagerBackend.tiles[len(EagerBackend.tiles) - left :]


@pytest.mark.parametrize(
    ("leak", "left"), [("none", EagerBackend.wide_tiles), ("company", ()), ("position", ()), ("size", ())]
)
def test_wide_tiles_have_the_bytes_of_the_others_whatever_they_gain(
    backend: EagerBackend,
    residents: dict[str, Resident],
    monkeypatch: pytest.MonkeyPatch,
    leak: str,
    left: tuple[int, ...],
) -> None:
    monkeypatch.setattr(selftest, "TILE_SECONDS", math.inf)
    monkeypatch.setattr(selftest, "_WIDE_TILE_GAIN", math.inf)
    leaky: Any = _Leaky(residents["levels"].generator, leak)  # type: ignore[arg-type]
    assert _proved(backend, leaky).wide == left


@pytest.mark.parametrize("limit", ["TILE_SECONDS", "_WIDE_TILE_GAIN"])
def test_a_wide_tile_that_takes_long_or_gains_nothing_is_not_used(
    backend: EagerBackend, residents: dict[str, Resident], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(selftest, limit, 0.0)
    assert _proved(backend, residents["levels"].generator).wide == ()


class _SlowMeans(BernoulliObservation):
    """Takes a fiftieth of a second for a mean, of any number of rows."""

    def double(self) -> "_SlowMeans":
        return _SlowMeans(self.logits.double())

    def mean(self) -> torch.Tensor:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return super().mean()


def test_a_tile_takes_as_long_as_its_slowest_program(backend: EagerBackend, residents: dict[str, Resident]) -> None:
    """Scores alone would say that the event loop is free again at once."""
    slow: Any = _Leaky(residents["bits"].generator, "none")  # type: ignore[arg-type]
    slow.observe = lambda walk, label=None: _SlowMeans(slow.inner.decode(walk.z).logits)
    assert _proved(backend, slow).seconds >= 0.02


def test_every_served_family_is_reproducible_here(residents: dict[str, Resident]) -> None:
    assert all(resident.description.reproducible and 32 in resident.sizes for resident in residents.values())


def _named(resident: Resident) -> tuple[int, ...]:
    """The tiles that the fingerprint names: time does not decide which."""
    return tuple(size for size in resident.sizes if size in EagerBackend.tiles)


def test_the_fingerprint_names_versions_hardware_and_the_set_of_tiles(residents: dict[str, Resident]) -> None:
    resident = residents["levels"]
    assert torch.__version__ in resident.description.fingerprint
    assert torch.backends.cpu.get_cpu_capability() in resident.description.fingerprint
    assert resident.description.fingerprint.endswith("tiles-" + ".".join(map(str, _named(resident))))


def test_a_version_that_does_not_reproduce_its_reference_is_refused(
    served_store: ModelStore, backend: EagerBackend, residents: dict[str, Resident], tmp_path: Any
) -> None:
    resident = residents["levels"]
    x = torch.randint(0, 17, (4, 8, 8), dtype=torch.uint8)
    mean = resident.generator.encode(x).parameters["mean"]
    score = resident.generator.decode(mean).double().log_prob(x).sum((1, 2))
    store = ModelStore.open(tmp_path / "store")
    manifest = resident.manifest
    good = Draft(
        name="levels",
        family=manifest.family,
        spec=manifest.spec,
        likelihood=manifest.likelihood,
        event_shape=manifest.event_shape,
        levels=manifest.levels,
        weights=served_store.read(manifest.weights),
        reference=save_safetensors({"x": x.numpy(), "reconstruction_at_mode": score.numpy()}),
    )
    load(store, store.publish(good), backend)
    wrong = save_safetensors({"x": x.numpy(), "reconstruction_at_mode": score.numpy() * 1.001})
    with pytest.raises(ModelFailure, match="does not reproduce its reference: row 0"):
        load(store, store.publish(replace(good, reference=wrong)), backend)


@pytest.mark.parametrize("name", ["vamp", "mixture", "ladder", "labels"])
def test_a_model_loaded_on_any_thread_has_the_same_bytes(
    served_store: ModelStore, backend: EagerBackend, residents: dict[str, Resident], name: str
) -> None:
    """What a model computes once at load must not be split over the cores because the thread is new."""
    loaded: list[Resident] = []
    thread = threading.Thread(target=lambda: loaded.append(load(served_store, served_store.resolve(name), backend)))
    thread.start()
    thread.join()
    job = Job(verb=Verb.ELBO, rows=3, seed=1, x=np.full((3, 8, 8), 5, np.uint8), num_samples=4)
    if name == "labels":
        job = replace(job, marginal_labels=3)
    engine = Compute(backend, Limits())
    engine.start()
    first, second = (engine.submit(job, resident).result(60).value for resident in (residents[name], loaded[0]))
    assert engine.drain(30)
    assert isinstance(first, Scores)
    assert isinstance(second, Scores)
    assert first.columns["elbo"].tobytes() == second.columns["elbo"].tobytes()
