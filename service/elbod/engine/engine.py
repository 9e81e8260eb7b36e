"""Runs many callers' jobs on one compute thread: admission, turns, cancellation, drain."""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from elbod.engine.batcher import Pending, next_tile
from elbod.engine.counters import WorkCounters
from elbod.engine.jobs import Job, Part, Result, Stage, Tile
from elbod.engine.loading import Resident
from elbod.engine.runner import PARAMETER, DrawInputs, Outputs, Runner, pin_thread, row_dtype
from elbod.engine.tasks import Task, reduce_chunks, reduced_together
from elbod.errors import Draining, ElbodError, InvalidInput, ModelFailure, QueueFull

logger = logging.getLogger(__name__)

Lane = tuple[Resident, Stage]

# A job's answer, or why there is none.
Outcome = Result | ElbodError
# Hears, on the compute thread, of all jobs of one caller that a tile finished.
Deliver = Callable[[Sequence[tuple[Task, Outcome]]], None]

_COMPUTE_DIED = 70  # EX_SOFTWARE of sysexits.h


@dataclass(frozen=True)
class Limits:
    """Bounds of what is admitted and not yet answered."""

    max_queue_rows: int = 1_048_576
    max_queue_bytes: int = 512 * 1024**2


class Engine:
    """`submit`, `admit` and `cancel` from any thread; everything else happens on the compute thread.

    Takes what is queued when the compute frees: no timer, no idle polling.
    """

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner, self.limits = runner, limits
        self.counters = WorkCounters()
        self._changed = threading.Condition()
        self._ids = count()
        # Guarded by _changed: who waits in which lane, in turn order.
        self._lanes: OrderedDict[Lane, OrderedDict[int, Task]] = OrderedDict()
        self._queued_rows = self._queued_bytes = 0
        self._draining = False
        self._rows_per_second: float | None = None
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._compute, name="elbod-compute", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job, resident: Resident) -> "Future[Result]":
        """A future of the job's answer. Cancelling it drops what has not run.

        Raises InvalidInput (larger than the whole queue), QueueFull, Draining.
        """
        future: Future[Result] = Future()

        def settle(finished: Sequence[tuple[Task, Outcome]]) -> None:
            ((_, outcome),) = finished
            if not future.set_running_or_notify_cancel():
                return
            if isinstance(outcome, ElbodError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        task = self.admit(job, resident, settle)
        self.wake()
        future.add_done_callback(lambda done: self.cancel(task) if done.cancelled() else None)
        return future

    def admit(self, job: Job, resident: Resident, deliver: Deliver) -> Task:
        """Queue a job for the next `wake`; `deliver` hears of its outcome unless it is cancelled.

        Raises InvalidInput (larger than the whole queue), QueueFull, Draining.
        """
        task = Task(job, resident, deliver)
        rows, size = job.row_draws, task.size
        self._refuse_oversized(job, rows, size)
        with self._changed:
            if self._draining:
                raise Draining("the server is shutting down: try another one")
            if (
                self._queued_rows + rows > self.limits.max_queue_rows
                or self._queued_bytes + size > self.limits.max_queue_bytes
            ):
                raise QueueFull(
                    f"the queue is full: {self._queued_rows} row-draws and {self._queued_bytes} bytes are waiting",
                    retry_after=self._queued_rows / (self._rows_per_second or self._queued_rows),
                )
            self._queued_rows += rows
            self._queued_bytes += size
            self._enter(next(self._ids), task)
        return task

    def wake(self) -> None:
        """Let the compute thread look for what was admitted."""
        with self._changed:
            self._changed.notify()

    def cancel(self, task: Task) -> None:
        """Drop what has not run of a job; a finished one is left alone."""
        with self._changed:
            if self._close(task):
                self.counters.cancelled_rows += task.job.rows

    def _close(self, task: Task) -> bool:
        """Give the task's place in the queue back; False if that was done before. Holds the lock."""
        if task.closed:
            return False
        task.closed = True
        self._queued_rows -= task.job.row_draws
        self._queued_bytes -= task.size
        return True

    def _refuse_oversized(self, job: Job, rows: int, size: int) -> None:
        way_out = "split its rows" if job.rows > 1 else "ask for fewer draws"
        if job.marginal_labels:
            way_out += f", or give labels: without them each row is scored under all {job.marginal_labels}"
        for what, amount, limit in (
            ("row-draws", rows, self.limits.max_queue_rows),
            ("bytes", size, self.limits.max_queue_bytes),
        ):
            if amount > limit:
                raise InvalidInput.at("", f"the request takes {amount} {what}, the limit is {limit}: {way_out}")

    @property
    def alive(self) -> bool:
        """Whether the compute thread lives."""
        return self._thread.is_alive()

    @property
    def queued(self) -> tuple[int, int]:
        """Row-draws and bytes that are admitted and not answered."""
        return self._queued_rows, self._queued_bytes

    def busy_seconds(self) -> float:
        """How long the tile that runs now has been running; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def drain(self, timeout: float | None) -> bool:
        """Refuse new jobs, finish the admitted ones; False if some were left when the time was up."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _enter(self, key: int, task: Task) -> None:
        self._lanes.setdefault((task.resident, task.stage), OrderedDict())[key] = task

    def _compute(self) -> None:
        try:
            self._serve()
        except BaseException:
            # A server without its compute thread would hold every caller until its deadline: die and be replaced.
            logger.critical("the compute thread died", exc_info=True)
            os._exit(_COMPUTE_DIED)

    def _serve(self) -> None:
        pin_thread()
        # Numbers that are not finite are refused with their row.
        np.seterr(invalid="ignore", over="ignore", divide="ignore")
        while (work := self._take()) is not None:
            lane, tile, tasks = work
            self._busy_since = time.monotonic()
            outcomes = self._run(lane, tile, tasks)
            elapsed = time.monotonic() - self._busy_since
            self._busy_since = None
            with self._changed:
                finished = [(task, outcome) for task, outcome in outcomes if self._close(task)]
                for key, task in tasks.items():
                    if not task.closed:
                        self._enter(key, task)
                if tile.stage is Stage.DRAW:
                    self._note_speed(sum(part.count for part in tile.parts) / max(elapsed, 1e-6))
            _deliver(finished)

    def _note_speed(self, rows_per_second: float) -> None:
        before = self._rows_per_second
        # An average over some twenty tiles.
        self._rows_per_second = rows_per_second if before is None else 0.95 * before + 0.05 * rows_per_second

    def _take(self) -> tuple[Lane, Tile, dict[int, Task]] | None:
        """Wait for work, and take one tile's jobs out of their lane; None when drained."""
        with self._changed:
            while True:
                for lane in list(self._lanes):
                    queue = self._lanes.pop(lane)
                    cancelled: list[int] = []
                    tile = next_tile(lane[1], self._pending(queue, cancelled), lane[0].sizes)
                    for key in cancelled:
                        del queue[key]
                    if tile is None:
                        continue
                    tasks = {part.job: queue.pop(part.job) for part in tile.parts}
                    if queue:
                        # Lanes take turns, too.
                        self._lanes[lane] = queue
                    return lane, tile, tasks
                if self._draining:
                    return None
                self._changed.wait()

    @staticmethod
    def _pending(queue: OrderedDict[int, Task], cancelled: list[int]) -> Iterator[Pending]:
        for key, task in queue.items():
            if task.closed:
                cancelled.append(key)
            else:
                yield Pending(key, task.units)

    def _run(self, lane: Lane, tile: Tile, tasks: dict[int, Task]) -> list[tuple[Task, Outcome]]:
        """Run a tile; what it finished. One job's failure is its own: its neighbours run again without it."""
        try:
            outputs = self._outputs(lane[0], tile, tasks)
        except BaseException as error:  # whatever a model raises, SystemExit too, must not stop the thread
            if len(tile.parts) == 1:
                task = tasks[tile.parts[0].job]
                place = task.place(task.row(self._culprit(lane[0], tile, tasks)))
                return [(task, _failure(task, f"failed on {place}", error))]
            alone = (Tile(tile.stage, tile.size, (part,)) for part in tile.parts)
            return [outcome for one in alone for outcome in self._run(lane, one, tasks)]
        self.counters.ran(tile)
        outcomes: list[tuple[Task, Outcome]] = []
        complete: list[Task] = []
        for key, at in _places(tile):
            task = tasks[key]
            try:
                if task.accept(tile.stage, outputs, at):
                    complete.append(task)
            except BaseException as error:
                outcomes.append((task, _failure(task, _NO_ANSWER, error)))
        for group in reduced_together(complete):
            outcomes += self._reduce(group)
        return outcomes

    def _reduce(self, group: Sequence[Task]) -> list[tuple[Task, Outcome]]:
        """Reduce chunks together, and one by one if that fails; what this finished."""
        try:
            reduced = reduce_chunks(group)
        except BaseException as error:  # label_log_prob is the model's, and so are the arrays
            if len(group) == 1:
                return [(group[0], _failure(group[0], _NO_ANSWER, error))]
            return [outcome for task in group for outcome in self._reduce([task])]
        outcomes: list[tuple[Task, Outcome]] = []
        for task, columns, finite in reduced:
            try:
                if task.take(columns, finite=finite):
                    outcomes.append((task, task.result()))
            except BaseException as error:
                outcomes.append((task, _failure(task, _NO_ANSWER, error)))
        return outcomes

    def _culprit(self, resident: Resident, tile: Tile, tasks: dict[int, Task]) -> int:
        """The first unit of a tile's only part that its model fails on: the last of the shortest part that fails."""
        (part,) = tile.parts
        least, most = 1, part.count
        while least < most:
            count = (least + most) // 2
            try:
                self._outputs(resident, replace(tile, parts=(Part(part.job, count),)), tasks)
                least = count + 1
            except BaseException:  # of whatever kind, as before
                most = count
        return least - 1

    def _outputs(self, resident: Resident, tile: Tile, tasks: dict[int, Task]) -> dict[str, np.ndarray]:
        for task in tasks.values():
            task.started = task.started or time.monotonic()
        if tile.stage is Stage.ENCODE:
            x = np.zeros((tile.size, *resident.generator.event_shape), row_dtype(resident.generator))
            label = np.zeros(tile.size, np.int64)
            for key, at in _places(tile):
                tasks[key].fill_rows(x[at], label[at])
            encoded = _whole(self._runner.encode(resident.generator, x, label), tile.size)
            return _of_shapes(encoded, resident.row_shapes)
        inputs = DrawInputs.zeros(resident.generator, tile.size)
        for key, at in _places(tile):
            tasks[key].fill_draws(inputs, at)
        return _whole(self._runner.draw(resident.generator, inputs), tile.size)


def _whole(outputs: Outputs, size: int) -> Outputs:
    """A tile's outputs, which have one entry a unit: those of a part would be taken for others'."""
    for name, values in outputs.items():
        if values.shape[:1] != (size,):
            raise ValueError(f"{name} has shape {values.shape} for {size} rows")
    return outputs


def _of_shapes(encoded: Outputs, row_shapes: Mapping[str, tuple[int, ...]]) -> Outputs:
    """Parameters of q(z|x) whose rows have the shapes of the load: others would fail all of the tile later."""
    for name, shape in row_shapes.items():
        if encoded[PARAMETER + name].shape[1:] != shape:
            raise ValueError(f"{name} has rows of shape {encoded[PARAMETER + name].shape[1:]}, not {shape}")
    return encoded


_NO_ANSWER = "returned what makes no answer"


def _failure(task: Task, what: str, error: BaseException) -> ElbodError:
    """What a task's caller hears: an error that was meant for it, or only what its model did."""
    if isinstance(error, ElbodError):
        return error
    logger.error("model %s %s", task.resident, what, exc_info=error)
    failure = ModelFailure(f"model '{task.resident}' {what}")
    failure.__cause__ = error
    return failure


def _deliver(finished: Iterable[tuple[Task, Outcome]]) -> None:
    """Tell each caller of all its jobs at once."""
    callers: dict[Deliver, list[tuple[Task, Outcome]]] = {}
    for task, outcome in finished:
        callers.setdefault(task.deliver, []).append((task, outcome))
    for deliver, outcomes in callers.items():
        deliver(outcomes)


def _places(tile: Tile) -> Iterator[tuple[int, slice]]:
    start = 0
    for part in tile.parts:
        yield part.job, slice(start, start + part.count)
        start += part.count
