"""When training stands still for a moment between two steps: to save its state, or to end."""

import enum
import signal
import threading
from types import FrameType
from typing import Any, Protocol, Self, final

from elbod.training.state import State


class Pause(enum.IntFlag):
    """What a pause is for."""

    NONE = 0
    SAVE = 1
    STOP = 2


class Pauses(Protocol):
    """Asked by the loop at every step, on the thread that trains."""

    def wanted(self, end_of_epoch: bool, end_of_training: bool = False) -> Pause:
        """Whether to pause after the step that now begins, the last one of its epoch or of all."""

    def pause(self, what: Pause, state: State) -> None:
        """Called between two steps if any of the processes that train together wanted it; may raise to end them all."""


@final
class NoPauses:
    """Never."""

    def wanted(self, end_of_epoch: bool, end_of_training: bool = False) -> Pause:
        return Pause.NONE

    def pause(self, what: Pause, state: State) -> None: ...


@final
class Signals:
    """While it is entered, the first SIGINT or SIGTERM is remembered in `number`; a second one does what it did before.

    A signal that was ignored stays ignored, and on another thread than the main one nothing changes.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if (before := signal.getsignal(number)) is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
