"""JSON objects of an answer, read field by field with their types; fields that nobody asks for are ignored."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Malformed(ValueError):
    """An answer that does not have the promised form; the message names the place."""


def parse_object(raw: bytes | str, what: str) -> dict[str, Any]:
    """The JSON object in `raw`. Raises Malformed."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed(f"{what} is a JSON {type(value).__name__}, not an object")
    return value


class Fields:
    """Typed access to one JSON object. Raises Malformed for a field that is missing or of another type."""

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self._values, self._where = values, where

    def integer(self, name: str) -> int:
        value = self._typed(name, int)
        if isinstance(value, bool):
            raise Malformed(f"{self._where}{name} is a bool, not an int")
        return value

    def number(self, name: str) -> float:
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Malformed(f"{self._where}{name} is missing or no number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        return None if self._values.get(name) is None else self.number(name)

    def text(self, name: str) -> str:
        return self._typed(name, str)

    def optional_integer(self, name: str) -> int | None:
        return None if self._values.get(name) is None else self.integer(name)

    def optional_text(self, name: str) -> str | None:
        return None if self._values.get(name) is None else self.text(name)

    def boolean(self, name: str) -> bool:
        return self._typed(name, bool)

    def object(self, name: str) -> "Fields":
        return Fields(self._typed(name, dict), f"{self._where}{name}.")

    def optional_object(self, name: str) -> "Fields | None":
        return None if self._values.get(name) is None else self.object(name)

    def objects(self, name: str) -> list["Fields"]:
        """The elements of a list of objects."""
        places = enumerate(self._typed(name, list))
        named = [(f"{self._where}{name}[{i}]", value) for i, value in places]
        for place, value in named:
            if not isinstance(value, dict):
                raise Malformed(f"{place} is a {type(value).__name__}, not an object")
        return [Fields(value, f"{place}.") for place, value in named]

    def integers(self, name: str) -> tuple[int, ...]:
        values = self._typed(name, list)
        keyed = Fields({str(i): value for i, value in enumerate(values)}, f"{self._where}{name}.")
        return tuple(keyed.integer(str(i)) for i in range(len(values)))

    def optional_integers(self, name: str) -> tuple[int, ...] | None:
        return None if self._values.get(name) is None else self.integers(name)

    def names(self) -> list[str]:
        return list(self._values)

    def _typed(self, name: str, kind: type[T]) -> T:
        value = self._values.get(name)
        if not isinstance(value, kind):
            found = "missing" if name not in self._values else f"a {type(value).__name__}"
            raise Malformed(f"{self._where}{name} is {found}, not a {kind.__name__}")
        return value
