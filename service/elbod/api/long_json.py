"""A long JSON body with its long parts cut out, so that no call has to parse all of it."""

import re
from collections.abc import Sequence

from elbod.api.blocks import INLINE_BYTES
from elbod.errors import InvalidInput
from elbod.requests.blocks import BLOCK, Pause

_KEY = re.compile(rb'\s*"([^"\\]*)"\s*:\s*')
_SHORT = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|[^",\[\]{}]+|\[[^\[\]{}]*\]|\{[^{}]*\})')
_COMMA = re.compile(rb"\s*,")
_DATA = re.compile(rb'\{[^{}]*?"data"\s*:\s*"')
# No key and no short value is longer.
_WINDOW = 4096
_STRIDE = 1024**2
# No request has as many fields.
MAX_KEYS = 64


def cut_out(body: bytes | bytearray, array_names: Sequence[str], pause: Pause) -> tuple[bytes, dict[str, memoryview]]:
    """The body without its long lists and base64 texts, and these by name: `[]` or "" is left in their place.

    Nothing is validated: what is left and what is cut out are parsed, and refused, by others. Raises InvalidInput if
    too much is left.
    """
    view, left, cut = memoryview(body), bytearray(), dict[str, memoryview]()
    taken = 0  # of the body, left or cut out
    place = body.find(b"{", 0, _WINDOW) + 1
    for _ in range(MAX_KEYS):
        key = _KEY.match(body, place, place + _WINDOW)
        if not place or not key:
            break
        name, start = key[1].decode("utf-8", "replace"), key.end()
        span = _part(body, start, pause) if name in array_names else None
        if span and span[1] - span[0] > BLOCK:
            left += view[taken : span[0]]
            if body[start] == ord("["):
                left += b"[]"
            cut[name] = view[span[0] : span[1]]
            taken = span[1]
        # Of a text, what follows it in its object.
        value = _rest_of_value(body, start, span)
        comma = value and _COMMA.match(body, value, value + _WINDOW)
        place = comma.end() if comma else 0
    rest = len(body) - taken
    if len(left) + rest > INLINE_BYTES:
        known = ", ".join(array_names)
        message = f"the body has {len(left) + rest} bytes outside of the arrays {known}"
        raise InvalidInput.at("", f"{message}, the limit is {INLINE_BYTES}: no other field is long")
    left += view[taken:]
    return bytes(left), cut


def _part(body: bytes | bytearray, start: int, pause: Pause) -> tuple[int, int] | None:
    """Where the list at `start` is, or the base64 text in the object there; None if neither is."""
    if body[start : start + 1] == b"[":
        # A list of numbers has neither quotes nor braces.
        end = _find(body, b"}", start, _find(body, b'"', start, len(body), pause), pause)
        return start, body.rfind(b"]", start, end) + 1
    if data := _DATA.match(body, start, start + _WINDOW):
        return data.end(), _find(body, b'"', data.end(), len(body), pause)
    return None


def _rest_of_value(body: bytes | bytearray, start: int, span: tuple[int, int] | None) -> int:
    """Where the value at `start` ends, 0 if that is not to be seen."""
    if span is None:
        short = _SHORT.match(body, start, start + INLINE_BYTES)
        return short.end() if short else 0
    if body[start] == ord("["):
        return span[1]
    return body.find(b"}", span[1], span[1] + _WINDOW) + 1


def _find(body: bytes | bytearray, what: bytes, start: int, stop: int, pause: Pause) -> int:
    """The first place of `what` before `stop`, or `stop`."""
    for window in range(start, stop, _STRIDE):
        found = body.find(what, window, min(stop, window + _STRIDE))
        if found >= 0:
            return found
        pause()
    return stop
