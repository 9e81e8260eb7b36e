"""Options that several commands have, and the client that they describe."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from elbod_client._client import Client

Url = Annotated[str | None, typer.Option(help="The server; default ELBOD_URL, else http://127.0.0.1:8000.")]
Model = Annotated[str | None, typer.Option(help="name, name@alias or name@version; default: the server's.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that one request may take.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Decides everything random; drawn if missing.")]
FirstIndex = Annotated[int, typer.Option(min=0, help="Example index of the first row.")]
Binarize = Annotated[str | None, typer.Option(help="threshold or stochastic: x in [0, 1] to bits.")]
Label = Annotated[int | None, typer.Option(min=0, help="The class of all rows, of a conditional model.")]
NumSteps = Annotated[int | None, typer.Option(min=1, help="Passes of a draw, of a model with levels.")]
Level = Annotated[int | None, typer.Option(min=0, help="Where z stands, of a model with levels.")]
ReceiptPath = Annotated[
    str | None,
    typer.Option(metavar="FILE.json", help="Write a receipt, for `elboctl replay`, and its arrays beside it."),
]


def connect(url: str | None, model: str | None, timeout: float) -> Client:
    return Client(url, model=model, timeout=timeout)


def check_binarize(value: str | None) -> None:
    if value not in (None, "threshold", "stochastic"):
        raise typer.BadParameter("--binarize is threshold or stochastic")


def check_sampler(value: str | None) -> None:
    if value not in (None, "ancestral", "ddim"):
        raise typer.BadParameter("--sampler is ancestral or ddim")


def check_marginal(value: str | None) -> None:
    if value not in (None, "labels", "null label"):
        raise typer.BadParameter("--marginal is labels, or 'null label'")


def say(lines: list[str], described: Mapping[str, Any], as_json: bool) -> None:
    """One JSON object for programs, or lines for people, on standard output."""
    typer.echo(json.dumps(described) if as_json else "\n".join(lines))
