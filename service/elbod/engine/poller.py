"""When the store is looked at: about once an interval, and not by all servers at once."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

# A look that is under way at the end is waited for, if the store answers.
_LAST_LOOK = 1.0

# Over how many looks servers that started in one moment move apart.
_APART = 10


def delays(interval: float, uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Seconds from the end of each look to the next, for ever: none is longer than 1.1 intervals.

    Every interval is drawn from ±10 % of its length, but for the first ten: these are longer by one and the same
    uniform fraction of up to a tenth. Servers that started in one moment, and looked at once, are then spread over k
    tenths of an interval at the look after k, evenly from the eleventh on; until then in no interval does any of them
    look twice. The jitter alone needs some 50 looks for that: one leaves sin(0.2π) / 0.2π = 94 % of their coherence.
    """
    longer = interval * (1 + uniform(0, 1) / _APART)
    for _ in range(_APART):
        yield longer
    while True:
        yield interval * uniform(0.9, 1.1)


class Poller(threading.Thread):
    """Calls `look` at once, and again after each of `delays`, whatever it raises."""

    def __init__(self, look: Callable[[], None], delays: Iterator[float]) -> None:
        super().__init__(name="elbod-poll", daemon=True)
        self._look, self._delays = look, delays
        self._stopping = threading.Event()
        self.looked = threading.Event()
        self._since: float | None = None

    @property
    def waiting_seconds(self) -> float:
        """How long the look under way has been waiting for the store; 0 between looks."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def run(self) -> None:
        while True:
            self._since = time.monotonic()
            try:
                self._look()
            except Exception:
                logger.exception("a look at the model store failed: looking again")
            self._since = None
            self.looked.set()
            if self._stopping.wait(next(self._delays)):
                return

    def stop(self) -> None:
        """No look begins after this. One that is under way ends first, unless the store keeps it waiting."""
        self._stopping.set()
        self.join(_LAST_LOOK)
