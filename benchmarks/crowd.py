"""Callers of the Python client who go on while something breaks, and what became of their calls."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elbod_client import Client, ElbodError

CALLERS, PAUSE = 8, 0.02
# A call that took longer was disturbed.
DISTURBED = 1.0


@dataclass(frozen=True)
class Call:
    began: float
    ended: float
    error: str | None
    wrong: bool


@dataclass
class Crowd:
    """Callers of `model` at one server, each with its own connections."""

    port: int
    model: str
    rows: np.ndarray
    timeout: float = 30.0
    calls: list[Call] = field(default_factory=list)
    retries: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _bytes: bytes | None = None

    @property
    def lost(self) -> Counter[str]:
        return Counter(call.error for call in self.calls if call.error is not None)

    @property
    def wrong(self) -> int:
        return sum(call.wrong for call in self.calls)

    def disturbed_until(self, since: float) -> float:
        """Seconds from then until the last call ended that failed or was slow; 0 if none did."""
        bad = [c.ended for c in self.calls if c.ended > since and (c.error or c.ended - c.began > DISTURBED)]
        return max(bad, default=since) - since

    def longest(self) -> float:
        return max((call.ended - call.began for call in self.calls), default=0.0)

    def p99(self) -> float:
        taken = sorted(call.ended - call.began for call in self.calls if call.error is None)
        return taken[min(len(taken) - 1, int(0.99 * len(taken)))] if taken else float("nan")

    def ask(self) -> None:
        """One caller, until it is told to stop."""
        with Client(f"http://127.0.0.1:{self.port}", model=self.model, timeout=self.timeout) as client:
            while not self._stop.is_set():
                began, error, wrong = time.monotonic(), None, False
                try:
                    found = client.elbo(self.rows, num_samples=4, seed=1).elbo.tobytes()
                    self._bytes = self._bytes or found
                    wrong = found != self._bytes
                except ElbodError as raised:
                    error = type(raised).__name__
                self.calls.append(Call(began, time.monotonic(), error, wrong))
                self._stop.wait(PAUSE)

    def wait_until_well(self, seconds: float) -> None:
        """Return once every caller has been answered since now, or the time is up."""
        since = time.monotonic()
        while time.monotonic() - since < seconds:
            good = [call for call in list(self.calls) if call.began > since and call.error is None]
            if len(good) >= 4 * CALLERS:
                return
            time.sleep(0.05)


@contextmanager
def asking(port: int, model: str, rows: np.ndarray, *, timeout: float = 30.0) -> Iterator[Crowd]:
    """A crowd that has been answered and keeps asking until the end of the block, where each finishes its call."""
    crowd = Crowd(port, model, rows, timeout)
    handler = _Counting(crowd.retries)
    logger = logging.getLogger("elbod_client")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    threads = [threading.Thread(target=crowd.ask) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    crowd.wait_until_well(10)
    try:
        yield crowd
    finally:
        crowd._stop.set()
        for thread in threads:
            thread.join(60)
        logger.removeHandler(handler)


class _Counting(logging.Handler):
    """Counts the retries that the client logs, by their cause."""

    def __init__(self, retries: Counter[str]) -> None:
        super().__init__()
        self._retries = retries

    def emit(self, record: logging.LogRecord) -> None:
        arguments: Any = record.args
        self._retries[type(arguments[-1]).__name__] += 1
