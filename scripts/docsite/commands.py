"""The command lines, from the programs themselves."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from docsite.tables import table
from elbod.cli import main as service
from elbod_client.cli import main as client


def elbod() -> str:
    return "\n".join(_command(typer.main.get_command(service.app), "elbod", depth=2))


def elboctl() -> str:
    return "\n".join(_command(typer.main.get_command(client.app), "elboctl", depth=2))


def _command(command: Any, path: str, depth: int) -> Iterator[str]:
    """Typer brings its own click, which names no public types."""
    context = command.make_context(path, [], resilient_parsing=True)
    yield f"{'#' * depth} `{path}`\n"
    yield _prose(command.help or "")
    children = getattr(command, "commands", {})
    if not children:
        yield "```text\n" + " ".join([path, *command.collect_usage_pieces(context)]) + "\n```\n"
    yield from _parameters(command, context)
    for name, child in children.items():
        yield from _command(child, f"{path} {name}", min(depth + 1, 4))


def _prose(text: str) -> str:
    """Examples as blocks; what is a paragraph in the terminal is one here."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\b", "").replace("\f", "").strip())
    return "\n\n".join(_example(p) if p.startswith("Example") else " ".join(p.split()) for p in paragraphs) + "\n"


def _example(paragraph: str) -> str:
    heading, _, rest = paragraph.partition(":")
    lines = "\n".join(line.strip() for line in rest.strip().splitlines())
    return f"{heading}:\n\n```text\n{lines}\n```"


def _parameters(command: Any, context: Any) -> Iterator[str]:
    parameters = (parameter for parameter in command.get_params(context) if parameter.name != "help")
    records = [parameter.get_help_record(context) for parameter in parameters]
    rows = [(f"`{' '.join(name.split())}`", meaning) for name, meaning in filter(None, records)]
    if rows:
        yield table(("", ""), rows)
