"""Canonical JSON: one value, one sequence of bytes, so that a digest of it means something.

Sorted keys, no spaces, UTF-8, numbers as Python's `repr` writes them. What JSON cannot hold exactly is refused
instead of being bent: NaN and infinities, integers beyond 64 bits, keys that are not text, lone surrogates.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elbod_store.errors import InvalidDraft

if TYPE_CHECKING:
    # Covariant on purpose: a dict[str, float] is JSON.
    JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]
else:
    JSON = Any  # msgspec cannot resolve a recursive alias; `plain` checks the values


def canonical(value: JSON) -> bytes:
    """The canonical bytes of `value`. Raises InvalidDraft, naming the place of what JSON cannot hold."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    """64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def plain(value: JSON, where: str = "value") -> Any:
    """A copy of `value` made of nothing but None, bool, int, float, str, list and dict."""
    match value:
        case None | bool():
            return value
        case str():
            return _text(value, where)
        case int():
            if not -(2**63) <= value < 2**64:
                raise InvalidDraft(f"{where} is {value}: integers beyond 64 bits do not survive JSON; store text")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise InvalidDraft(f"{where} is {value}: JSON has no such number; store null instead")
            return float(value)
        case Mapping():
            return {_text(key, f"a key of {where}"): plain(item, f"{where}.{key}") for key, item in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise InvalidDraft(f"{where} has type {type(value).__name__}, which JSON cannot hold; convert it first")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidDraft(f"{where} is {value!r}: JSON keys are text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidDraft(f"{where} is not valid Unicode text: {error}") from None
    return str(value)
