"""The command `elbod`: composition root. Imports nothing heavy, so that `--help` is instant."""

import sys
from typing import Annotated

import typer

from elbod import __version__
from elbod.cli.demo import demo
from elbod.cli.serve import serve
from elbod.cli.train import train
from elbod.errors import ElbodError
from elbod.training.errors import TrainingError
from elbod_store import StoreError

app = typer.Typer(name="elbod", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(demo)
app.command()(serve)
app.command()(train)


@app.command()
def recipes() -> None:
    """List the training recipes.

    Example: elbod recipes
    """
    from elbod.training.recipes import RECIPES

    for name, recipe in RECIPES.items():
        typer.echo(f"{name:<24} {recipe.family}, {recipe.likelihood}")


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


def main() -> None:
    """Exit code 0, 1 (failed: one line on stderr says why), 2 (usage), 130 (Ctrl-C)."""
    try:
        app()
    except (ElbodError, StoreError, TrainingError) as error:
        typer.echo(f"elbod: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
