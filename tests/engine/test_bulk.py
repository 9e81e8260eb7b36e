"""A whole set of rows through several engines."""

from pathlib import Path

import numpy as np
import pytest

from elbod.engine.backends.eager import EagerBackend
from elbod.engine.bulk import engines_on, open_bulk
from elbod.engine.compute import Compute
from elbod.engine.jobs import Job, Scores, Verb
from elbod.engine.loading import Resident, load
from elbod.errors import InvalidInput
from elbod.generators.base import Blueprint
from elbod.machine import usable_cores
from elbod_store import ModelStore
from tests.support import publish


def _job(rows: int) -> Job:
    x = np.random.default_rng(2).integers(0, 17, (rows, 8, 8), dtype=np.uint8)
    return Job(verb=Verb.ELBO, rows=rows, seed=5, first_index=70, x=x, num_samples=2, num_importance_samples=30)


@pytest.mark.parametrize("engines", [1, 3])
def test_bytes_are_those_of_one_request_at_any_number_of_engines(
    engine: Compute, backend: EagerBackend, residents: dict[str, Resident], engines: int
) -> None:
    job, seen = _job(2500), []
    with open_bulk(backend, engines) as bulk:
        columns = bulk.run(job, residents["levels"], seen.append)
    whole = engine.submit(job, residents["levels"]).result(60).value
    assert isinstance(whole, Scores)
    assert columns.keys() == whole.columns.keys()
    for name, values in whole.columns.items():
        assert columns[name].tobytes() == values.tobytes()
    assert sum(seen) == 2500
    assert len(seen) > 1


def test_large_rows_go_in_jobs_that_the_queue_admits(backend: EagerBackend, tmp_path: Path) -> None:
    """A row of 256 KiB: 128 of them are 32 MiB."""
    store = ModelStore.open(tmp_path / "store")
    wide = Blueprint(family="ppca", spec={"latent_dim": 1}, likelihood="gaussian", event_shape=(2**15,))
    resident, seen = load(store, publish(store, "wide", wide), backend), []
    with open_bulk(backend, 1) as bulk:
        bulk.run(Job(verb=Verb.ELBO, rows=150, seed=1, x=np.zeros((150, 2**15))), resident, seen.append)
    assert seen == [128, 22]


def test_whoever_stops_listening_leaves_no_work_behind(backend: EagerBackend, residents: dict[str, Resident]) -> None:
    """An interrupted run cancels what has not run, so that the engines drain at once."""

    def interrupt(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_bulk(backend, 1) as bulk:
        bulk.run(_job(40_000), residents["levels"], interrupt)


def test_a_row_that_fails_the_model_fails_the_run(backend: EagerBackend, residents: dict[str, Resident]) -> None:
    """The failure of one part reaches the caller instead of an incomplete table."""
    x = np.zeros((3000, 6))
    x[2999] = 1e200
    job = Job(verb=Verb.ELBO, rows=3000, seed=1, x=x)
    with pytest.raises(InvalidInput, match=r"not finite for x\[2999\]"), open_bulk(backend, 2) as bulk:
        bulk.run(job, residents["linear"], lambda rows: None)


def test_a_container_s_quota_bounds_the_engines_as_it_bounds_the_workers(backend: EagerBackend, tmp_path: Path) -> None:
    for name, text in {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert engines_on(backend, tmp_path) == 1
    assert engines_on(backend) == usable_cores()
