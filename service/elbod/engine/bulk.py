"""Many rows through engines of this process: the same bytes as through the service, at any number of engines."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from elbod.engine.admission import Limits
from elbod.engine.backends import Backend
from elbod.engine.compute import Compute
from elbod.engine.jobs import Array, Encodings, Job, Result, Samples, Scores
from elbod.engine.loading import Resident
from elbod.engine.passes import evaluations, passes
from elbod.errors import InvalidInput, ModelFailure
from elbod.machine import usable_cores

# Evaluations of the network of one job: seconds of work, so that progress shows, and little memory.
_JOB_PASSES = 65_536
_JOB_ROWS = 1_024
# Of its x: large rows would else be more than a queue admits.
_JOB_BYTES = 32 * 1024**2
# A row by the name that messages give it.
_ROW = re.compile(r"\b((?:x|z|label)\[|row )(\d+)\b")
# Each engine has one job to run and one to go on with.
_JOBS_AN_ENGINE = 2


@dataclass(frozen=True)
class Bulk:
    """Engines that share out the rows of one large job."""

    engines: tuple[Compute, ...]

    def run(self, job: Job, resident: Resident, advance: Callable[[int], None]) -> dict[str, Array]:
        """The columns of a job's answer over all its rows, in order, by name; `advance` hears of every finished few."""
        parts: list[dict[str, Array]] = []
        for rows, result in self._run(job, resident):
            parts.append(_columns(result.value))
            advance(rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, job: Job, resident: Resident) -> Iterator[tuple[int, Result]]:
        row_bytes = resident.generator.likelihood.event_dims * 8 if job.x is None else job.x[0].nbytes
        row_passes = job.copies * max(1, job.draws) * evaluations(passes(job, resident.levels))
        step = max(1, min(_JOB_ROWS, _JOB_PASSES // row_passes, _JOB_BYTES // row_bytes))
        waiting: deque[tuple[int, int, Future[Result]]] = deque()
        try:
            for number, start in enumerate(range(0, job.rows, step)):
                rows = min(step, job.rows - start)
                given = {name: getattr(job, name) for name in ("x", "z", "label")}
                cut: dict[str, Any] = {
                    name: None if array is None else array[start : start + rows] for name, array in given.items()
                }
                part = replace(job, rows=rows, first_index=job.first_index + start, **cut)
                if len(waiting) == _JOBS_AN_ENGINE * len(self.engines):
                    yield _answer(*waiting.popleft())
                waiting.append((start, rows, self.engines[number % len(self.engines)].submit(part, resident)))
            while waiting:
                yield _answer(*waiting.popleft())
        finally:
            # Interrupted or failed: what has not run never will.
            for *_, future in waiting:
                future.cancel()


def _answer(start: int, rows: int, future: "Future[Result]") -> tuple[int, Result]:
    """The rows and the answer of a part that begins at row `start`; what is wrong with a row has its number there."""
    try:
        return rows, future.result()
    except InvalidInput as error:
        raise InvalidInput.at("", numbered(str(error), start)) from error
    except ModelFailure as error:
        raise ModelFailure(numbered(str(error), start)) from error


def numbered(message: str, start: int) -> str:
    """The message about rows of a part, with their numbers in the whole."""
    return _ROW.sub(lambda match: f"{match[1]}{int(match[2]) + start}", message)


def _columns(value: Samples | Encodings | Scores) -> dict[str, Array]:
    if isinstance(value, Scores):
        return dict(value.columns) | dict(value.maps)
    if isinstance(value, Samples):
        shown = {} if value.trajectory is None else {"trajectory": value.trajectory}
        return {"x": value.x, "z": value.z} | shown
    optional = {name: getattr(value, name) for name in ("z", "kl", "kl_per_dimension", "log_q")}
    return dict(value.parameters) | {name: array for name, array in optional.items() if array is not None}


def engines_on(backend: Backend, root: Path = Path("/")) -> int:
    """How many engines use a device up: one a usable core, one in all on a GPU. `root` as in `usable_cores`."""
    return 1 if backend.device.type == "cuda" else usable_cores(root)


@contextmanager
def open_bulk(backend: Backend, engines: int) -> Iterator[Bulk]:
    """That many engines, each on a thread."""
    with ExitStack() as stack:
        started = []
        for _ in range(engines):
            engine = Compute(backend, Limits())
            engine.start()
            stack.callback(engine.drain, None)
            started.append(engine)
        yield Bulk(tuple(started))
