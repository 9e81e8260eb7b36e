"""The command `elboctl`: the client's calls from a shell. Imports nothing heavy, so that `--help` is instant."""

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from elbod_client.cli.encode import encode
from elbod_client.cli.models import models, wait
from elbod_client.cli.replay import replay
from elbod_client.cli.sample import sample
from elbod_client.cli.score import score

app = typer.Typer(name="elboctl", no_args_is_help=True, pretty_exceptions_enable=False)
for command in (encode, models, replay, sample, score, wait):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from elbod_client import __version__

        typer.echo(f"elboctl {__version__}")
        raise typer.Exit


@app.callback()
def elboctl(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Sample from, encode with and score under the models of an elbod server.

    ELBOD_URL is the server (else http://127.0.0.1:8000), ELBOD_API_KEY the key, if it asks for one.

    Exit codes: 0; 1 failed, one line on stderr says why; 2 usage; 3 a replay that differs; 130 Ctrl-C.
    """


def main() -> None:
    """Exit codes as `elboctl --help` says."""
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    # A process that was started with SIGINT ignored, for example by nohup, goes on ignoring it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        app()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if interrupted:
            sys.exit(130)
        from elbod_client import ElbodError

        if not isinstance(error, ElbodError | ValueError | TypeError | OSError | ImportError):
            raise
        typer.echo(f"elboctl: {error}", err=True)
        sys.exit(1)
