"""What a training run says while it runs: a bar on a terminal, plain lines anywhere else, or nothing."""

import time
from typing import Protocol, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from elbod.training.loop import Point

_SECONDS_BETWEEN_LINES = 2.0


class Listener(Protocol):
    """Told about a run by the worker, on the thread that trains."""

    def note(self, text: str) -> None:
        """Something worth a line: what is trained, what was published."""

    def begin(self, epochs: int) -> None:
        """Training starts and takes at most this many epochs."""

    def point(self, point: Point, steps_per_second: float) -> None:
        """A held-out evaluation."""

    def end(self) -> None:
        """Training is over, or was interrupted."""


@final
class Silence:
    """Says nothing."""

    def note(self, text: str) -> None: ...

    def begin(self, epochs: int) -> None: ...

    def point(self, point: Point, steps_per_second: float) -> None: ...

    def end(self) -> None: ...


@final
class Lines:
    """Plain lines, an evaluation at most every two seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._epochs = 0
        self._last_line = 0.0

    def note(self, text: str) -> None:
        _print(self._console, text)

    def begin(self, epochs: int) -> None:
        self._epochs = epochs
        self._last_line = time.monotonic()

    def point(self, point: Point, steps_per_second: float) -> None:
        now = time.monotonic()
        if point.epoch < self._epochs and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        self.note(f"epoch {point.epoch}/{self._epochs}  {_describe(point, steps_per_second)}")

    def end(self) -> None: ...


@final
class Bar:
    """A progress bar with the speed and the newest held-out bound."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def note(self, text: str) -> None:
        _print(self._console, text)

    def begin(self, epochs: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("epochs  {task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("", total=epochs)
        self._bar.start()

    def point(self, point: Point, steps_per_second: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=point.epoch, description=_describe(point, steps_per_second))

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def console_listener() -> Listener:
    """A bar if standard output is a terminal, lines if it is not."""
    console = Console()
    return Bar(console) if console.is_terminal else Lines(console)


def _describe(point: Point, steps_per_second: float) -> str:
    return f"{steps_per_second:.0f} steps/s  held-out ELBO {point.elbo:.2f} ± {point.standard_error:.2f} nats"


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
