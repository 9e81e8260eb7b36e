"""The same promises on a GPU, where there is one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from elbod.engine.engine import Engine, Limits
from elbod.engine.jobs import Job, Samples, Scores, Verb
from elbod.engine.loading import Resident, load
from elbod.engine.runner import Runner
from elbod_store import ModelStore

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run(resident: Resident, device: str, *jobs: Job) -> list[Any]:
    engine = Engine(Runner(torch.device(device)), Limits())
    engine.start()
    results = [future.result(120).value for future in [engine.submit(job, resident) for job in jobs]]
    assert engine.drain(30)
    return results


@pytest.mark.parametrize("name", ["levels", "bits", "linear"])
def test_a_gpu_gives_the_same_bytes_in_any_company(served_store: ModelStore, name: str) -> None:
    resident = load(served_store, served_store.resolve(name), Runner(torch.device("cuda")))
    assert resident.description.reproducible
    assert "cuda" in resident.description.fingerprint
    whole = Job(verb=Verb.SAMPLE, rows=100, seed=7)
    tens = [replace(whole, rows=10, first_index=10 * i) for i in range(10)]
    first, *parts = run(resident, "cuda", whole, *tens)
    assert isinstance(first, Samples)
    assert np.concatenate([part.x for part in parts]).tobytes() == first.x.tobytes()
    assert np.concatenate([part.z for part in parts]).tobytes() == first.z.tobytes()


def test_a_gpu_agrees_with_the_cpu_up_to_rounding(served_store: ModelStore, levels_rows: Any) -> None:
    job = Job(verb=Verb.ELBO, rows=40, seed=3, x=levels_rows, num_samples=8, num_importance_samples=30)
    answers = []
    for device in ("cpu", "cuda"):
        resident = load(served_store, served_store.resolve("levels"), Runner(torch.device(device)))
        (scores,) = run(resident, device, job)
        assert isinstance(scores, Scores)
        answers.append(scores.columns)
    for column in ("elbo", "kl", "reconstruction", "iwae"):
        np.testing.assert_allclose(answers[0][column], answers[1][column], rtol=1e-4)
