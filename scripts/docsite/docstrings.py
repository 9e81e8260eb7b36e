"""Docstrings as they are shown: lines that begin with a parameter's name become a list."""

import re
from typing import Any

import griffe

# One or several names, then what they mean.
_PARAMETER = re.compile(r"([a-z_]+(?:, [a-z_]+)*): (.*)")


class Parameters(griffe.Extension):
    """For mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    """Only in paragraphs whose first line is such a line: prose may have colons, too."""
    return "\n\n".join(_listed(paragraph) for paragraph in text.split("\n\n"))


def _listed(paragraph: str) -> str:
    lines = paragraph.split("\n")
    if not _PARAMETER.fullmatch(lines[0]):
        return paragraph
    items: list[str] = []
    for line in lines:
        found = _PARAMETER.fullmatch(line)
        if found:
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            items.append(f"- {names}: {found[2]}")
        else:
            items.append(f"  {line.strip()}")
    return "\n".join(items)
