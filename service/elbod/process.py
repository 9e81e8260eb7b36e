"""One worker process, seen from its supervisor and from inside."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from elbod.api.balance import Balance, Loads
from elbod.api.logs import configure_logging
from elbod.api.server import serve
from elbod.api.worker_files import remove_orphaned
from elbod.errors import StartupError
from elbod.settings import Settings

if TYPE_CHECKING:
    from elbod.api.service import Service

ASK_EVERY = 1.0
# Loading torch from a slow disk comes before the loop runs.
_START_PATIENCE = 300.0

_SPAWN = multiprocessing.get_context("spawn")

# What a worker says; after the last one comes the reason.
_ALIVE, _STARTED, _FAILED = b"alive", b"started", b"failed: "


def drain_limit(settings: Settings) -> float:
    """Seconds after which a worker that still drains is stuck: its callers' time, then its queue's."""
    return 2 * settings.drain_timeout + 10


class Worker:
    """A process and the pipe to it."""

    def __init__(self, settings: Settings, listener: socket.socket, loads: Loads, number: int, delay: float) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        arguments = settings, listener, Balance(loads, number), theirs
        self.process = _SPAWN.Process(target=_work, args=arguments, name="elbod-worker")
        with _sigint_held():
            self.process.start()
        theirs.close()
        self.number, self.delay = number, delay
        self.born = time.monotonic()
        self.asked = 0.0
        self.answered = True
        self.runs = self.started = False

    def ask(self, now: float) -> None:
        """Ask for a sign of life, once until it comes."""
        if self.answered and now - self.asked >= ASK_EVERY:
            with contextlib.suppress(OSError):
                self.pipe.send_bytes(_ALIVE)
            self.asked, self.answered = now, False

    def listen(self) -> str | None:
        """Take in what the worker said; the reason if it failed."""
        with contextlib.suppress(OSError, EOFError):
            while self.pipe.poll():
                said = self.pipe.recv_bytes()
                if not self.runs:
                    # What it was asked before its loop ran is owed from now.
                    self.runs, self.asked = True, time.monotonic()
                self.answered |= said == _ALIVE
                self.started |= said == _STARTED
                if said.startswith(_FAILED):
                    return said.removeprefix(_FAILED).decode()
        return None

    def silent(self, now: float, silence: float) -> bool:
        """Whether it has owed an answer for so long."""
        return not self.answered and now - self.asked > (silence if self.runs else _START_PATIENCE)

    def end(self, how: signal.Signals) -> None:
        if self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, how)

    def bury(self) -> None:
        self.process.join()
        self.pipe.close()


def _work(settings: Settings, listener: socket.socket, balance: Balance, pipe: Connection) -> None:
    """One worker process, from its first line to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_supervisor, args=(drain_limit(settings),), daemon=True).start()
    configure_logging()

    def listen(loop: asyncio.AbstractEventLoop, service: "Service") -> None:
        loop.add_reader(pipe.fileno(), answer, loop, service)

    def answer(loop: asyncio.AbstractEventLoop, service: "Service") -> None:
        if not service.healthy:
            # No sign of life from a stuck compute thread, as long as it is.
            loop.remove_reader(pipe.fileno())
            loop.call_later(ASK_EVERY, listen, loop, service)
            return
        try:
            pipe.send_bytes(pipe.recv_bytes())
        except (OSError, EOFError):
            loop.remove_reader(pipe.fileno())

    try:
        serve(
            settings,
            listener,
            balance,
            running=listen,
            started=lambda: pipe.send_bytes(_STARTED),
        )
    except StartupError as error:
        pipe.send_bytes(_FAILED + str(error).encode())
        sys.exit(1)
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and not supervisor.is_alive():
        remove_orphaned()


def _leave_with_supervisor(limit: float) -> None:
    """Drain when the supervisor is gone, however it went."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None
    supervisor.join()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # still loading: nothing to drain
        remove_orphaned()
        os._exit(1)
    os.kill(os.getpid(), signal.SIGTERM)
    # Nobody is left to end a drain that hangs.
    time.sleep(limit)
    os._exit(1)


@contextlib.contextmanager
def _sigint_held() -> Iterator[None]:
    """A child that starts now is born with SIGINT blocked: Ctrl-C cannot end it before it ignores the signal."""
    # Started by the first child otherwise, which unblocks SIGINT.
    resource_tracker.ensure_running()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
