"""Rows in flight take no more memory than admission counts, and none once nobody waits."""

from dataclasses import replace

import numpy as np
import pytest

from elbod.engine.admission import Admission, Limits
from elbod.engine.backends import EagerBackend
from elbod.engine.engine import Engine
from elbod.engine.jobs import Job, Result, Verb
from elbod.engine.loading import Resident
from elbod.engine.progress import Progress
from elbod.engine.settling import Outcome, quiet
from elbod.errors import OutOfMemory

X = np.random.default_rng(0).integers(0, 17, (300, 8, 8), dtype=np.uint8)


def admitted(engine: Engine, resident: Resident, job: Job, found: dict[Progress, Outcome]) -> Progress:
    progress = Progress(job, resident, found.update)
    engine.admission.admit(progress)
    engine.add(progress)
    return progress


@pytest.mark.parametrize("name", ["levels", "labels", "mixture", "ladder"])
def test_tables_are_no_larger_than_what_was_admitted(residents: dict[str, Resident], name: str) -> None:
    """Of many jobs at once, each of which is a row under every label where the model has labels."""
    resident = residents[name]
    engine, found = Engine(EagerBackend(), Admission(Limits())), dict[Progress, Outcome]()
    labels = len(resident.description.labels or ())
    job = Job(verb=Verb.ELBO, rows=300, seed=1, x=X, marginal_labels=labels)
    for seed in range(40):
        admitted(engine, resident, replace(job, seed=seed), found)
    slots, (_, size) = engine.runner.slots(resident), engine.admission.queued
    idle = slots.nbytes
    with quiet():
        while engine.step():
            assert slots.nbytes <= 1.25 * size + idle
    assert len(found) == 40
    assert slots.nbytes == idle


class _Full(EagerBackend):
    """Has no memory for tables of more than so many rows."""

    def table(self, capacity, shape, dtype):  # type: ignore[no-untyped-def]
        return _FullTable(super().table(capacity, shape, dtype))


class _FullTable:
    def __init__(self, inner):  # type: ignore[no-untyped-def]
        self._inner = inner

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        return getattr(self._inner, name)

    def grow(self, capacity: int) -> None:
        raise MemoryError("no memory for a larger table")


def test_a_job_that_finds_no_memory_for_its_rows_fails_alone(residents: dict[str, Resident]) -> None:
    engine, found = Engine(_Full(), Admission(Limits())), dict[Progress, Outcome]()
    small = Job(verb=Verb.ELBO, rows=1, seed=1, x=X[:1])
    # How many rows a chunk has follows from the widest tile, which a busy machine may find slow.
    levels = replace(residents["levels"], sizes=(32, 128))
    first = admitted(engine, levels, small, found)
    with quiet():
        while engine.step():
            pass
    large = replace(small, rows=300, x=X)
    placed, *others = [admitted(engine, levels, replace(large, seed=seed), found) for seed in (1, 2, 3)]
    with quiet():
        while engine.step():
            pass
    after = admitted(engine, levels, small, found)
    with quiet():
        while engine.step():
            pass
    assert all(isinstance(found[progress], Result) for progress in (first, placed, after))
    assert all(isinstance(found[progress], OutOfMemory) for progress in others)
    assert engine.admission.queued == (0, 0)
