"""Where engines compute: short tiles on the event loop, long ones on a thread."""

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from elbod.engine.admission import Admission, Limits
from elbod.engine.backends import pin_thread
from elbod.engine.backends.base import Backend
from elbod.engine.counters import WorkCounters
from elbod.engine.engine import Deliver, Engine
from elbod.engine.jobs import Job, Result
from elbod.engine.loading import Resident
from elbod.engine.progress import Progress
from elbod.engine.selftest import TILE_SECONDS
from elbod.engine.settling import Outcome, quiet
from elbod.errors import ElbodError

logger = logging.getLogger(__name__)

# The event loop runs tiles for so long before it polls its sockets again.
_TURN_SECONDS = 0.002

_COMPUTE_DIED = 70  # EX_SOFTWARE of sysexits.h


class Compute:
    """All jobs of a process. `submit` and `cancel` from any thread; without an event loop all tiles run on the thread.

    Tiles start when there is work: no timer, no idle polling. On a CPU handing work to another thread takes longer than
    a short tile, so those run on the loop, with all requests that arrived in one of its iterations together.
    """

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self.backend, self.admission = backend, Admission(limits)
        self._inline, self._threaded = Engine(backend, self.admission), Engine(backend, self.admission)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn_is_due = False
        self._inbox: deque[Progress] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._busy_since: float | None = None
        self._turn_since: float | None = None
        self._cancelled_rows = 0
        self._thread = threading.Thread(target=self._serve, name="elbod-compute", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Begin to compute, short tiles on `loop`, whose thread calls this."""
        if loop is not None and self.backend.device.type == "cpu":
            pin_thread()
            self._loop = loop
        self._thread.start()

    def submit(self, job: Job, resident: Resident) -> "Future[Result]":
        """A future of the job's answer. Cancelling it drops what has not run.

        Raises InvalidInput (larger than the whole queue), QueueFull, Draining.
        """
        future: Future[Result] = Future()

        def settle(finished: Sequence[tuple[Progress, Outcome]]) -> None:
            ((_, outcome),) = finished
            if not future.set_running_or_notify_cancel():
                return
            if isinstance(outcome, ElbodError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        progress = self.admit(job, resident, settle, threaded=True)
        future.add_done_callback(lambda done: self.cancel(progress) if done.cancelled() else None)
        return future

    def admit(self, job: Job, resident: Resident, deliver: Deliver, *, threaded: bool = False) -> Progress:
        """Let a job in; `deliver` hears of its outcome, on the thread that computed it, unless it is cancelled.

        Called on the event loop unless `threaded`. Raises InvalidInput (larger than the whole queue), QueueFull,
        Draining.
        """
        progress = Progress(job, resident, deliver)
        self.admission.admit(progress)
        if self._loop is None or threaded or resident.tile_seconds > TILE_SECONDS:
            with self._changed:
                self._inbox.append(progress)
                self._changed.notify()
        else:
            self._inline.add(progress)
            self._arrange_turn(self._loop)
        return progress

    def cancel(self, progress: Progress) -> None:
        """Drop what has not run of a job; a finished one is left alone."""
        if self.admission.leave(progress):
            self._cancelled_rows += progress.job.rows

    def drain(self, timeout: float | None) -> bool:
        """Refuse new jobs, finish the admitted ones; False if some were left when the time was up. Not called on the
        event loop, which may have to compute."""
        finished = self.admission.drain(timeout)
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if finished:
            self._thread.join()
        return finished

    @property
    def alive(self) -> bool:
        """Whether the compute thread lives."""
        return self._thread.is_alive()

    @property
    def queued(self) -> tuple[int, int]:
        """Passes and bytes that are admitted and not answered."""
        return self.admission.queued

    @property
    def counters(self) -> WorkCounters:
        """What was done since the start."""
        return self._inline.counters + self._threaded.counters + WorkCounters(cancelled_rows=self._cancelled_rows)

    def busy_seconds(self) -> float:
        """How long the tile that runs now, or ran last while more wait, has been running; 0 when idle."""
        begun = [since for since in (self._busy_since, self._turn_since) if since is not None]
        return time.monotonic() - min(begun) if begun else 0.0

    def _arrange_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            # After the requests that arrived together, and after the sockets were polled once more: callers of the last
            # tile have sent their next request by then, and one full tile takes less time than two half-full ones.
            loop.call_soon(loop.call_soon, self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turn_is_due = False
        self._turn_since = time.monotonic()
        until = self._turn_since + _TURN_SECONDS
        try:
            with quiet():
                while self._inline.waiting and self._inline.step() and time.monotonic() < until:
                    pass
        except BaseException:
            _die()
        if self._inline.waiting:
            self._arrange_turn(loop)
        else:
            self._turn_since = None

    def _serve(self) -> None:
        pin_thread()
        try:
            with quiet():
                while self._receive():
                    self._busy_since = time.monotonic()
                    self._threaded.step()
                    self._busy_since = None
        except BaseException:
            _die()

    def _receive(self) -> bool:
        """Wait for work, and take in what was admitted; False at the end."""
        with self._changed:
            while not self._inbox and not self._threaded.waiting:
                if self._stopped:
                    return False
                self._changed.wait()
            while self._inbox:
                self._threaded.add(self._inbox.popleft())
            return True


def _die() -> None:
    # A server that cannot compute would hold every caller until its deadline: end and be replaced.
    logger.critical("the engine failed", exc_info=True)
    os._exit(_COMPUTE_DIED)
