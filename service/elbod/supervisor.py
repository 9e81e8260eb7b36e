"""Worker processes that share one socket: started, watched, replaced, drained. Loads neither torch nor a model.

uvicorn's own supervisor looks twice a second, and stops every worker when one cannot start; this one is woken by what
it waits for, and only a first start that fails is the end. A worker is asked for a sign of life once a second, and its
event loop gives it: a worker that is silent for long is killed and replaced.
"""

import contextlib
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

from elbod.api.balance import Loads
from elbod.api.logs import configure_logging
from elbod.api.server import bind, refuse_open_door
from elbod.api.worker_files import forget_gauges, worker_files
from elbod.errors import StartupError
from elbod.machine import has_gpu, usable_cores
from elbod.process import ASK_EVERY, Worker, drain_limit
from elbod.settings import Settings

logger = logging.getLogger(__name__)

_MOST_WORKERS = 8
# A worker's loop may be held up by garbage collection or a long answer, not for as long as this.
_SILENCE = 60.0
_LONG_RUN = 30.0
# A worker has some forty before its first connection; the supervisor a few for each worker.
_FEWEST_DESCRIPTORS, _DESCRIPTORS_PER_WORKER = 128, 4
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0


def worker_count(settings: Settings) -> int:
    """`workers`, or one a core and one for a GPU. Raises StartupError."""
    private = settings.store == "memory://"
    if settings.workers is not None:
        if private and settings.workers > 1:
            raise StartupError("memory:// lives inside one process: use --workers 1, or a store on disk")
        return settings.workers
    on_gpu = has_gpu() if settings.device == "auto" else settings.device.startswith("cuda")
    return 1 if on_gpu or private else min(_MOST_WORKERS, usable_cores())


def restart_delay(before: float, ran: float) -> float:
    """Seconds until a worker that ran for `ran` is replaced; `before` is the delay before it, 0 for the first."""
    return min(_LONGEST_DELAY, 2 * before) if before and ran < _LONG_RUN else _FIRST_DELAY


def supervise(settings: Settings, *, announce: Callable[[str], None], silence: float = _SILENCE) -> int:
    """Serve until SIGTERM or SIGINT, then finish what was admitted; the exit code by the convention.

    `announce` gets the URL once every worker answers. Raises StartupError.
    """
    refuse_open_door(settings)
    count = worker_count(settings)
    _refuse_few_descriptors(count)
    configure_logging()
    listener = bind(settings.host, settings.port)
    return _Supervisor(settings, listener, announce, silence).run(count)


def _refuse_few_descriptors(workers: int) -> None:
    """Refuse to start where models, connections or workers would soon find none. Raises StartupError."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FEWEST_DESCRIPTORS + _DESCRIPTORS_PER_WORKER * workers
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise StartupError(f"{limit} file descriptors are too few for {workers} workers: raise `ulimit -n` to {needed}")


class _Supervisor:
    def __init__(
        self, settings: Settings, listener: socket.socket, announce: Callable[[str], None], silence: float
    ) -> None:
        self._settings, self._listener, self._announce, self._silence = settings, listener, announce, silence
        self._workers: list[Worker] = []
        # When replacements are due, each with the number that it gets and the delay that it had to wait.
        self._due: list[tuple[float, int, float]] = []
        self._announced = False
        self._ended_by: signal.Signals | None = None
        self._give_up_at = float("inf")

    def run(self, count: int) -> int:
        """The exit code."""
        with _signal_numbers() as signals, worker_files():
            self._loads = Loads(count)
            try:
                for number in range(count):
                    self._start(number, 0.0)
                while self._workers or self._ended_by is None:
                    self._sleep(signals)
                    for received in _received(signals):
                        if self._ended_by is not None:
                            return 128 + received
                        self._drain(received)
                    self._look(time.monotonic())
            finally:
                for worker in self._workers:
                    worker.end(signal.SIGKILL)
                for worker in self._workers:
                    worker.bury()
        return 0 if self._ended_by is signal.SIGTERM else 128 + signal.SIGINT

    def _start(self, number: int, delay: float) -> None:
        self._workers.append(Worker(self._settings, self._listener, self._loads, number, delay))

    def _sleep(self, signals: socket.socket) -> None:
        """Until a worker speaks or dies, a signal comes, or it is time to ask or to replace."""
        soonest = min((at for at, *_ in self._due), default=float("inf"))
        pause = max(0.0, min(ASK_EVERY, soonest - time.monotonic()))
        wait([signals, *(w.process.sentinel for w in self._workers), *(w.pipe for w in self._workers)], pause)

    def _drain(self, number: signal.Signals) -> None:
        self._ended_by = number
        self._give_up_at = time.monotonic() + drain_limit(self._settings)
        self._due.clear()
        # Else the kernel would go on taking connections that nobody answers.
        self._listener.close()
        for worker in self._workers:
            worker.end(signal.SIGTERM)

    def _look(self, now: float) -> None:
        for worker in list(self._workers):
            failure = worker.listen()
            if worker.process.exitcode is not None or failure is not None:
                self._bury(worker, failure, now)
            elif self._ended_by is not None:
                if now > self._give_up_at:
                    worker.end(signal.SIGKILL)
            elif worker.silent(now, self._silence):
                logger.error("worker %s does not answer: killed", worker.process.pid)
                worker.end(signal.SIGKILL)
            else:
                worker.ask(now)
        if not self._announced and self._ended_by is None and all(worker.started for worker in self._workers):
            self._announced = True
            self._announce(_url(self._listener))
        for due in [due for due in self._due if due[0] <= now]:
            self._due.remove(due)
            self._start(*due[1:])

    def _bury(self, worker: Worker, failure: str | None, now: float) -> None:
        self._workers.remove(worker)
        # What it said last may have come after the last look; one that failed need not end by itself.
        failure = failure or worker.listen()
        worker.end(signal.SIGKILL)
        worker.bury()
        self._loads.clear(worker.number)
        if worker.process.pid is not None:
            forget_gauges(worker.process.pid)
        code = worker.process.exitcode
        if self._ended_by is not None:
            return
        if not self._announced:
            raise StartupError(failure or f"a worker ended with code {code} before it could serve: the log says why")
        delay = restart_delay(worker.delay, now - worker.born)
        logger.error(
            "worker %s ended with code %s%s: replaced in %g s",
            worker.process.pid,
            code,
            f" ({failure})" if failure else "",
            delay,
        )
        self._due.append((now + delay, worker.number, delay))


@contextlib.contextmanager
def _signal_numbers() -> Iterator[socket.socket]:
    """A socket on which every SIGTERM and SIGINT leaves its number, so that one wait sees signals and workers."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        wanted = [signal.SIGTERM]
        # A process that was started with SIGINT ignored, for example by nohup, goes on ignoring it.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            wanted.append(signal.SIGINT)
        before = {number: signal.signal(number, lambda *_: None) for number in wanted}
        wakeup = signal.set_wakeup_fd(writer.fileno())
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)


def _received(signals: socket.socket) -> list[signal.Signals]:
    try:
        return [signal.Signals(number) for number in signals.recv(64)]
    except BlockingIOError:
        return []


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
