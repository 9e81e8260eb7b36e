"""When the store is looked at: about once an interval, and not by all servers at once."""

import random
import threading
from collections.abc import Callable, Iterator


def delays(interval: float, uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Seconds from the end of each look to the next, for ever.

    Every interval is drawn from ±10 % of its length. The first is longer by a uniform fraction: servers that started in
    one moment, and looked at once, are then spread evenly from their second look on, and in no interval does each look
    twice. The jitter alone needs some 50 looks for that, since one look leaves sin(0.2π) / 0.2π = 94 % of their
    coherence.
    """
    yield interval * uniform(1, 2)
    while True:
        yield interval * uniform(0.9, 1.1)


class Poller(threading.Thread):
    """Calls `look` at once, and again after each of `delays`. `look` must not raise."""

    def __init__(self, look: Callable[[], None], delays: Iterator[float]) -> None:
        super().__init__(name="elbod-poll", daemon=True)
        self._look, self._delays = look, delays
        self._stopping = threading.Event()
        self.looked = threading.Event()

    def run(self) -> None:
        while True:
            self._look()
            self.looked.set()
            if self._stopping.wait(next(self._delays)):
                return

    def stop(self) -> None:
        """No look begins after this; one that is under way ends first."""
        self._stopping.set()
        self.join()
