"""The engine: schedules a tile, runs it, and settles what it finished."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count

from elbod.engine import settling
from elbod.engine.admission import Admission
from elbod.engine.backends.base import Backend
from elbod.engine.counters import WorkCounters
from elbod.engine.jobs import Stage
from elbod.engine.loading import Resident
from elbod.engine.programs import Program
from elbod.engine.progress import Progress
from elbod.engine.runner import Launched, Runner
from elbod.engine.scheduler import next_tile
from elbod.engine.settling import NO_MEMORY, Outcome
from elbod.engine.work import Share, Work, take

Lane = tuple[Resident, Program]

# Hears of all jobs of one caller that a tile finished.
Deliver = Callable[[Sequence[tuple[Progress, Outcome]]], None]


class Engine:
    """Runs many callers' jobs on one backend. It has no thread: the caller of `step` computes, under `settling.quiet`.

    Where the backend computes by itself, as a GPU does, the next tile is launched before the last one is read.
    """

    def __init__(self, backend: Backend, admission: Admission) -> None:
        self.admission, self.counters = admission, WorkCounters()
        self.runner = Runner(backend)
        self._overlaps = backend.overlaps
        self._ids = count()
        # Who waits for which program of which model, in turn order.
        self._lanes: OrderedDict[Lane, OrderedDict[int, Progress]] = OrderedDict()
        self._launched: Launched | None = None
        # Jobs whose rows got no slots.
        self._unplaced: list[tuple[Progress, Outcome]] = []

    def add(self, progress: Progress) -> None:
        """Let an admitted job take part."""
        self._lanes.setdefault((progress.resident, progress.next_program), OrderedDict())[next(self._ids)] = progress

    @property
    def waiting(self) -> bool:
        """Whether `step` may find work."""
        return bool(self._lanes) or self._launched is not None

    def step(self) -> bool:
        """Run one tile, and tell the callers whose jobs are finished; False if nothing waits."""
        started = time.monotonic()
        work = self._schedule()
        finished = [] if work is None else self._in_flight(self.runner.launch(work))
        if work is None and self._launched is not None:
            finished, self._launched = [self._launched], None
        for launched in finished:
            self._deliver(self._settle(launched))
        self._deliver(self._unplaced)
        self._unplaced = []
        if work is not None and work.stage is Stage.DRAW:
            self.admission.note_speed(work.units / max(time.monotonic() - started, 1e-6))
        return work is not None or bool(finished)

    def _in_flight(self, launched: Launched) -> list[Launched]:
        """The tiles to settle now that one more was launched."""
        before = [] if self._launched is None else [self._launched]
        # What a failed tile should have written, the next one must not read.
        overlaps = self._overlaps and launched.error is None
        self._launched = launched if overlaps else None
        return before if overlaps else [*before, launched]

    def _schedule(self) -> Work | None:
        """Take the next tile's units out of the first lane that has any; lanes take turns."""
        for lane in list(self._lanes):
            queue, (resident, program) = self._lanes.pop(lane), lane
            turn = self._turn(queue, resident.sizes[-1])
            if not turn:
                continue
            size, counts = next_tile([queue[key].units for key in turn], resident.sizes)
            shares, now = list[Share](), time.monotonic()
            for key, units in zip(turn, counts, strict=True):
                if units:
                    progress = queue.pop(key)
                    progress.started = progress.started or now
                    if progress.chunk is not None or self._place(progress):
                        shares.append(take(progress, units))
            if queue:
                self._lanes[lane] = queue
            for share in shares:
                if share.progress.units:
                    self.add(share.progress)
            if shares:
                return Work(resident, program, size, tuple(shares))
        return None

    def _turn(self, queue: OrderedDict[int, Progress], most: int) -> list[int]:
        """The first jobs of a lane that are still wanted."""
        turn, closed = list[int](), list[int]()
        for key, progress in queue.items():
            if len(turn) == most:
                break
            (closed if progress.closed else turn).append(key)
        for key in closed:
            self._leave(queue.pop(key))
        return turn

    def _place(self, progress: Progress) -> bool:
        """Put the next rows of a job into slots; False if that fails, which ends the job alone."""
        try:
            progress.begin(self.runner.slots(progress.resident))
        except BaseException as error:
            self._leave(progress)
            self._unplaced.append((progress, settling.failure(progress, "has no room for a job's rows", error)))
            return False
        return True

    def _settle(self, launched: Launched) -> list[tuple[Progress, Outcome]]:
        """What a tile finished. One job's failure is its own: its neighbors run again without it."""
        work = launched.work
        slots = self.runner.slots(work.resident)
        try:
            outputs = self.runner.outputs(launched)
        except BaseException as error:
            if isinstance(error, NO_MEMORY) and (smaller := work.smaller()):
                return [outcome for one in smaller for outcome in self._settle(self.runner.launch(one))]
            if len(work.shares) > 1:
                alone = [self.runner.launch(work.alone(share)) for share in work.shares]
                return [outcome for one in alone for outcome in self._settle(one)]
            return self._fail(work, error)
        self.counters.ran(work.stage, work.units, work.size)
        outcomes = []
        for progress, outcome in settling.settle(settling.keep(work, outputs, slots), slots):
            if outcome is not None:
                self._leave(progress)
                outcomes.append((progress, outcome))
            elif progress.chunk is not None:
                if not progress.chunk.unsettled:
                    settling.release(progress.chunk, slots)
                    if not self._place(progress):
                        continue
                self.add(progress)
        return outcomes

    def _fail(self, work: Work, error: BaseException) -> list[tuple[Progress, Outcome]]:
        """End the only job of a tile that raised."""
        (share,) = work.shares
        share.chunk.running -= 1
        progress = share.progress
        if progress.chunk is not share.chunk:
            settling.release(share.chunk, self.runner.slots(work.resident))
            return []
        place = ""
        if not isinstance(error, NO_MEMORY):
            place = progress.place(progress.row(share.item(work.program, self.runner.culprit(work))))
        self._leave(progress)
        return [(progress, settling.failure(progress, f"failed on {place}", error))]

    def _leave(self, progress: Progress) -> None:
        """Give the slots of a job back that was answered, failed or cancelled."""
        if progress.chunk is not None:
            settling.release(progress.chunk, self.runner.slots(progress.resident))
            progress.chunk = None

    def _deliver(self, outcomes: Sequence[tuple[Progress, Outcome]]) -> None:
        """Tell each caller of all its jobs at once."""
        callers: dict[Deliver, list[tuple[Progress, Outcome]]] = {}
        for progress, outcome in outcomes:
            if self.admission.leave(progress):
                callers.setdefault(progress.deliver, []).append((progress, outcome))
        for deliver, answered in callers.items():
            deliver(answered)
