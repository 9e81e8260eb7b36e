"""The command `elbod`: composition root. Imports nothing heavy, so that `--help` is instant."""

import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

from elbod import __version__
from elbod.cli import keys, models
from elbod.cli.demo import demo
from elbod.cli.encode import encode
from elbod.cli.report import report
from elbod.cli.sample import sample
from elbod.cli.score import score
from elbod.cli.serve import serve
from elbod.cli.train import TrainCommand, train
from elbod.errors import ElbodError
from elbod.training.errors import TrainingError
from elbod_store import StoreError

# Seconds until an interrupt that was dropped is raised again: whatever dropped it is over by then.
_AGAIN = 0.05

app = typer.Typer(name="elbod", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(demo)
app.command()(encode)
app.command()(report)
app.command()(sample)
app.command()(score)
app.command()(serve)
app.command(cls=TrainCommand)(train)
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")


@app.command()
def recipes() -> None:
    """List the training recipes.

    Example: elbod recipes
    """
    from elbod.training.recipes import RECIPES

    for name, recipe in RECIPES.items():
        typer.echo(f"{name:<28} {recipe.family}, {recipe.likelihood}")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"elbod {__version__}")
        raise typer.Exit


@app.callback()
def elbod(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The ELBO daemon: sample, encode and score with VAE-style generative models."""


class _Interrupts:
    """A handler of SIGINT that raises KeyboardInterrupt as Python's own does, remembers that it did, and does it again
    where it was dropped: Python drops what finalizers and callbacks of weak references raise, torch has many of them,
    and a command that waits would then wait on.
    """

    def __init__(self) -> None:
        self.arrived = False
        self._report = sys.unraisablehook

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.arrived = True
        raise KeyboardInterrupt

    def dropped(self, error: "sys.UnraisableHookArgs") -> None:
        """A `sys.unraisablehook`."""
        if error.exc_type is not KeyboardInterrupt:
            self._report(error)
            return
        # Later, as what this raises is dropped too; and sent to the thread itself, so that it ends a wait.
        main = threading.main_thread().ident
        again = threading.Timer(_AGAIN, signal.pthread_kill, (main, signal.SIGINT))
        again.daemon = True
        again.start()


def _listen() -> _Interrupts:
    interrupts = _Interrupts()
    # A process that was started with SIGINT ignored, for example by nohup, goes on ignoring it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupts)
        sys.unraisablehook = interrupts.dropped
    return interrupts


def main() -> None:
    """Exit code 0, 1 (failed: one line on stderr says why), 2 (usage), 130 (Ctrl-C)."""
    interrupts = _listen()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Exception, SystemExit) as error:
        # Ctrl-C in the middle of an import may come out as any other failure: a half-imported torch, for example.
        if interrupts.arrived and not (isinstance(error, SystemExit) and error.code in (None, 0)):
            sys.exit(130)
        if not isinstance(error, ElbodError | StoreError | TrainingError):
            raise
        typer.echo(f"elbod: {error}", err=True)
        sys.exit(1)
