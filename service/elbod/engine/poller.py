"""When the store is looked at: about once an interval, and not by all servers at once."""

import random
import threading
from collections.abc import Callable, Iterator


def delays(interval: float, uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Seconds from the end of each look to the next, for ever.

    Every interval is drawn from ±10 % of its length, but for the first two: these are longer by one and the same
    uniform fraction of up to a half. Servers that started in one moment, and looked at once, are then spread evenly
    from their third look on; in no interval does any of them look twice, and none waits longer than one and a half.
    The jitter alone needs some 50 looks for that: one look leaves sin(0.2π) / 0.2π = 94 % of their coherence.
    """
    longer = interval * (1 + uniform(0, 1) / 2)
    yield longer
    yield longer
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
