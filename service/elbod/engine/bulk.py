"""Many rows through engines of this process: the same bytes as through the service, at any number of engines."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np

from elbod.engine.engine import Engine, Limits
from elbod.engine.jobs import Array, Job, Result, Scores
from elbod.engine.loading import Resident
from elbod.engine.runner import Runner

# Rows times draws of one job: seconds of work, so that progress shows, and little memory.
_JOB_ROW_DRAWS = 65_536
_JOB_ROWS = 1_024
# Of its x: large rows would else be more than a queue admits.
_JOB_BYTES = 32 * 1024**2
# Each engine has one job to run and one to go on with.
_JOBS_AN_ENGINE = 2


@dataclass(frozen=True)
class Bulk:
    """Engines that share out the rows of one large job."""

    engines: tuple[Engine, ...]

    def score(self, job: Job, resident: Resident, advance: Callable[[int], None]) -> dict[str, Array]:
        """The columns of an /elbo job over all its rows, in order; `advance` hears of every finished few rows."""
        parts: list[dict[str, Array]] = []
        for rows, result in self._run(job, resident):
            assert isinstance(result.value, Scores)
            parts.append(dict(result.value.columns))
            advance(rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, job: Job, resident: Resident) -> Iterator[tuple[int, Result]]:
        assert job.x is not None
        row_bytes = job.x[0].nbytes
        step = max(1, min(_JOB_ROWS, _JOB_ROW_DRAWS // (job.copies * max(1, job.draws)), _JOB_BYTES // row_bytes))
        waiting: deque[tuple[int, Future[Result]]] = deque()
        try:
            for number, start in enumerate(range(0, job.rows, step)):
                x = job.x[start : start + step]
                label = None if job.label is None else job.label[start : start + step]
                part = replace(job, rows=len(x), first_index=job.first_index + start, x=x, label=label)
                if len(waiting) == _JOBS_AN_ENGINE * len(self.engines):
                    rows, future = waiting.popleft()
                    yield rows, future.result()
                waiting.append((len(x), self.engines[number % len(self.engines)].submit(part, resident)))
            while waiting:
                rows, future = waiting.popleft()
                yield rows, future.result()
        finally:
            # Interrupted or failed: what has not run never will.
            for _, future in waiting:
                future.cancel()


@contextmanager
def open_bulk(runner: Runner, engines: int) -> Iterator[Bulk]:
    """That many engines, each with a compute thread of its own."""
    with ExitStack() as stack:
        started = []
        for _ in range(engines):
            engine = Engine(runner, Limits())
            engine.start()
            stack.callback(engine.drain, None)
            started.append(engine)
        yield Bulk(tuple(started))
