"""An engine that launches the next tile before it reads the last one, as on a GPU, and one that runs out of memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from elbod.engine.admission import Admission, Limits
from elbod.engine.backends import EagerBackend
from elbod.engine.engine import Engine
from elbod.engine.jobs import Job, Scores, Verb
from elbod.engine.loading import Resident
from elbod.engine.programs import Drawn, Inputs, Program
from elbod.engine.progress import Progress
from elbod.engine.settling import Outcome, quiet
from elbod.errors import InvalidInput, OutOfMemory
from elbod.generators.base import Generator

X = np.random.default_rng(0).integers(0, 17, (300, 8, 8), dtype=np.uint8)
SCORE = Job(verb=Verb.ELBO, rows=300, seed=3, x=X, num_samples=2, num_importance_samples=5)


class Overlapping(EagerBackend):
    overlaps = True


class Small(EagerBackend):
    """Has memory for tiles of so many rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def draw(self, generator: Generator, program: Program, inputs: Inputs) -> Drawn:
        assert inputs.noise is not None
        if len(inputs.noise) > self.rows:
            raise torch.OutOfMemoryError("tried to allocate")
        return super().draw(generator, program, inputs)


def outcomes(backend: EagerBackend, resident: Resident, *jobs: Job) -> list[Any]:
    engine, found = Engine(backend, Admission(Limits())), dict[Progress, Outcome]()
    waiting = [Progress(job, resident, found.update) for job in jobs]
    for progress in waiting:
        engine.admission.admit(progress)
        engine.add(progress)
    with quiet():
        while engine.step():
            pass
    assert engine.admission.queued == (0, 0)
    return [found[progress] for progress in waiting]


def columns(outcome: Any) -> dict[str, bytes]:
    assert isinstance(outcome.value, Scores)
    return {name: values.tobytes() for name, values in outcome.value.columns.items()}


@pytest.mark.parametrize("name", ["levels", "ladder", "mixture"])
def test_overlapping_tiles_change_no_byte(residents: dict[str, Resident], name: str) -> None:
    jobs = [
        SCORE,
        replace(SCORE, rows=1, x=X[:1], seed=4),
        replace(SCORE, rows=40, x=X[:40], target_standard_error=0.5, num_samples=200),
        replace(SCORE, rows=3, x=X[:3], reconstruction_map=True),
    ]
    pairs = zip(
        *(outcomes(backend, residents[name], *jobs) for backend in (EagerBackend(), Overlapping())), strict=True
    )
    assert all(columns(plain) == columns(overlapped) for plain, overlapped in pairs)


def test_a_failure_between_overlapping_tiles_is_that_job_s_own(residents: dict[str, Resident]) -> None:
    far = replace(SCORE, x=np.full((300, 8, 8), np.nan), seed=5)
    failed, fine = outcomes(Overlapping(), residents["levels"], far, SCORE)
    (alone,) = outcomes(EagerBackend(), residents["levels"], SCORE)
    assert isinstance(failed, InvalidInput)
    assert columns(fine) == columns(alone)


def test_a_tile_that_does_not_fit_into_memory_runs_as_smaller_ones(residents: dict[str, Resident]) -> None:
    (small,), (alone,) = (outcomes(backend, residents["levels"], SCORE) for backend in (Small(8), EagerBackend()))
    assert columns(small) == columns(alone)


def test_a_job_that_fits_into_no_tile_is_refused_and_the_next_one_runs(residents: dict[str, Resident]) -> None:
    backend = Small(2)
    (refused,) = outcomes(backend, residents["levels"], SCORE)
    assert isinstance(refused, OutOfMemory)
    assert "try again later" in str(refused)
    backend.rows = 128
    (fine,) = outcomes(backend, residents["levels"], SCORE)
    assert columns(fine)
