"""Canonical JSON: one value, one sequence of bytes, so that a digest of it means something.

Sorted keys, no spaces, UTF-8, numbers as Python's `repr` writes them. What JSON cannot hold exactly is refused
instead of being bent: NaN and infinities, integers beyond 64 bits, keys that are not text, lone surrogates.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from elbod_store.errors import InvalidDraft
from elbod_store.names import shown

if TYPE_CHECKING:
    # Covariant on purpose: a dict[str, float] is JSON.
    JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]
else:
    JSON = Any  # msgspec cannot resolve a recursive alias; `plain` checks the values

MAX_DEPTH: Final = 100
"""Lists and objects inside each other, at most."""


def canonical(value: JSON) -> bytes:
    """The canonical bytes of `value`. Raises InvalidDraft, naming the place of what JSON cannot hold."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    """64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def plain(value: JSON, where: str = "value") -> Any:
    """A copy of `value` made of nothing but None, bool, int, float, str, list and dict.

    Raises InvalidDraft, naming the place, for what JSON cannot hold exactly and for nesting deeper than MAX_DEPTH.
    """
    return _plain(value, [where])


def _plain(value: Any, place: list[str]) -> Any:
    """`place` becomes text only in an error: joined for every item, one long key would cost quadratic time."""
    match value:
        case None | bool():
            return value
        case str():
            return _text(value, place)
        case int():
            if not -(2**63) <= value < 2**64:
                number = value if value.bit_length() <= 256 else f"a number of {value.bit_length()} bits"
                raise _refused(place, f"is {number}: integers beyond 64 bits do not survive JSON; store text")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise _refused(place, f"is {value}: JSON has no such number; store null instead")
            return float(value)
        case Mapping():
            return {_text(key, place): _inner(item, place, f".{key}") for key, item in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return [_inner(item, place, f"[{index}]") for index, item in enumerate(value)]
    raise _refused(place, f"has type {type(value).__name__}, which JSON cannot hold; convert it first")


def _inner(item: Any, place: list[str], step: str) -> Any:
    if len(place) > MAX_DEPTH:
        raise _refused(place, f"is nested deeper than {MAX_DEPTH} levels: store it flat")
    place.append(step)
    copied = _plain(item, place)
    place.pop()
    return copied


def _text(value: object, place: list[str]) -> str:
    if not isinstance(value, str):
        raise _refused(place, f"has the key {shown(value)}: JSON keys are text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _refused(place, f"is not valid Unicode text: {error.reason}") from None
    return str(value)


def _refused(place: list[str], problem: str) -> InvalidDraft:
    where = "".join(place)
    return InvalidDraft(f"{where if len(where) <= 80 else shown(where)} {problem}")
