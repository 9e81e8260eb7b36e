"""Ctrl-C, SIGTERM and a closed terminal, noticed between two looks only: no process is started and then forgotten."""

import signal
import time
from types import FrameType

LOOK_EVERY = 0.1


class Interrupted(Exception):
    """By the signal of that number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """The signals that arrived since this was made."""

    def __init__(self) -> None:
        self.arrived: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A process that was started with a signal ignored, for example by nohup, goes on ignoring it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def pause(self) -> None:
        """Wait a moment. Raises Interrupted if a signal has arrived."""
        time.sleep(LOOK_EVERY)
        if self.arrived:
            raise Interrupted(self.arrived[0])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.arrived.append(number)
