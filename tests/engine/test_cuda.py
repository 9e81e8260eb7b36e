"""The same promises on a GPU, where there is one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from elbod.engine.admission import Limits
from elbod.engine.backends import open_backend
from elbod.engine.compute import Compute
from elbod.engine.jobs import Job, Samples, Scores, Verb
from elbod.engine.loading import Resident
from elbod.engine.smoketest import load_tested
from elbod.generators.noise import Keys, Stream, normals, uniforms
from elbod_store import ModelStore

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FAMILIES = ("levels", "bits", "linear", "vamp", "flow_prior", "flow_posterior", "mixture", "convolutional", "ladder")


@pytest.fixture(scope="module")
def on_gpu(served_store: ModelStore) -> dict[str, Resident]:
    backend = open_backend("cuda")
    return {name: load_tested(served_store, served_store.resolve(name), backend) for name in (*FAMILIES, "labels")}


def run(resident: Resident, device: str, *jobs: Job) -> list[Any]:
    engine = Compute(open_backend(device), Limits())
    engine.start()
    results = [future.result(120).value for future in [engine.submit(job, resident) for job in jobs]]
    assert engine.drain(30)
    return results


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_gives_the_same_bytes_in_any_company(on_gpu: dict[str, Resident], name: str) -> None:
    resident = on_gpu[name]
    assert resident.reproducible
    assert "cuda" in resident.fingerprint
    whole = Job(verb=Verb.SAMPLE, rows=100, seed=7)
    tens = [replace(whole, rows=10, first_index=10 * i) for i in range(10)]
    first, *parts = run(resident, "cuda", whole, *tens)
    assert isinstance(first, Samples)
    assert np.concatenate([part.x for part in parts]).tobytes() == first.x.tobytes()
    assert np.concatenate([part.z for part in parts]).tobytes() == first.z.tobytes()


@pytest.mark.parametrize("name", ["levels", "mixture", "ladder", "labels"])
def test_a_gpu_agrees_with_the_cpu_up_to_rounding(
    on_gpu: dict[str, Resident], residents: dict[str, Resident], levels_rows: Any, name: str
) -> None:
    job = Job(verb=Verb.ELBO, rows=40, seed=3, x=levels_rows, num_samples=8, num_importance_samples=30)
    if name == "labels":
        job = replace(job, label=np.arange(40) % 3)
    ((found,), (expected,)) = (run(on_gpu[name], "cuda", job), run(residents[name], "cpu", job))
    assert isinstance(found, Scores)
    assert isinstance(expected, Scores)
    for column in ("elbo", "kl", "reconstruction", "iwae"):
        np.testing.assert_allclose(found.columns[column], expected.columns[column], rtol=1e-4)


def test_the_device_draws_the_noise_of_the_host() -> None:
    backend = open_backend("cuda")
    rows = np.arange(9, dtype=np.uint64)
    keys = Keys(np.full(9, 2**62 + 5, np.uint64), rows + np.uint64(2**55), rows)
    exact = backend.uniforms(keys, (7, 7), 16).cpu().numpy()
    assert exact[:9].tobytes() == uniforms(keys, Stream.OBSERVATION, 49).reshape(9, 7, 7).tobytes()
    assert (exact[9:] == 0.5).all()
    drawn = backend.normals(keys, Stream.PILOT, 50, 16).cpu().numpy()
    np.testing.assert_allclose(drawn[:9], normals(keys, Stream.PILOT, 50), rtol=1e-6, atol=1e-7)
    assert (drawn[9:] == 0).all()
    first = np.uint64(13) * rows
    later = backend.normals(keys, Stream.TRANSITION, 50, 16, first).cpu().numpy()
    np.testing.assert_allclose(later[:9], normals(keys, Stream.TRANSITION, 50, first), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_program_of_a_family_is_captured(
    served_store: ModelStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_tested(served_store, served_store.resolve(name), open_backend("cuda"))
    assert "without a CUDA graph" not in caplog.text
