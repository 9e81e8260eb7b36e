"""Parameters in a path and in a query: what they may hold, and how the OpenAPI document says so."""

import re
from collections import Counter
from typing import Annotated

from fastapi import Path, Request
from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from elbod.errors import InvalidInput, shown
from elbod_store.names import ALIAS, LATEST, MAX_NUMBER, NAME

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def plain_integer(text: object) -> object:
    """The text of a decimal integer, unchanged: pydantic alone would also read `1_0`, `+1`, `01`, ` 1` and `1.0`."""
    if isinstance(text, str) and not _INTEGER.fullmatch(text):
        raise PydanticCustomError("plain_integer", "Input should be a decimal integer, such as 10")
    return text


def plain_number(text: object) -> object:
    """The text of a number as JSON writes it, unchanged."""
    if isinstance(text, str) and not _NUMBER.fullmatch(text):
        raise PydanticCustomError("plain_number", "Input should be a number, such as 0.5")
    return text


# The store refuses other names, with a better message than a pattern's.
Name = Annotated[
    str, Path(description="model name"), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})
]
Alias = Annotated[
    str,
    Path(description=f"any alias but {LATEST!r}, which is computed"),
    WithJsonSchema({"type": "string", "pattern": f"^{ALIAS.pattern}$", "not": {"const": LATEST}}),
]
Version = Annotated[int, Path(ge=1, le=MAX_NUMBER), BeforeValidator(plain_integer)]


async def given_once(request: Request) -> None:
    """Every parameter of the query at most once. Raises InvalidInput: which of two counts would be a guess."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if count > 1:
            raise InvalidInput.at(f"/{shown(name)}", f"{shown(name)} is given {count} times: give it once")
