"""Nested lists of numbers in JSON to arrays and back, long ones in blocks."""

import math
import operator
from collections.abc import Iterator
from itertools import accumulate, chain
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from elbod.errors import InvalidInput
from elbod.requests.blocks import BLOCK, Pause

Array = NDArray[Any]

MAX_DIMENSIONS = 64  # numpy's own
_SPACE = b" \t\n\r"
# Every character of a number becomes a 0, and a bracket a space.
_CLASSES = bytes.maketrans(b"123456789+-.eE", b"0" * 14)
_FLAT = bytes.maketrans(b"[]", b"  ")
# What no list of lists of numbers has, once its spaces are gone.
_IMPOSSIBLE = (b"0[", b"]0", b"][", b"[]", b"[,", b",]", b",,")


def read(name: str, lists: simdjson.Array) -> Array:
    """The array of parsed lists. Raises InvalidInput.

    A list among the numbers of another one goes unseen: `brackets` of the shape is then not what the text has.
    """
    numbers = _numbers(name, lists)
    shape, first = [len(lists)], lists
    while len(first) and type(first[0]) is simdjson.Array:
        first = first[0]
        shape.append(len(first))
    try:
        array = numbers.reshape(shape)
        level: Any = (lists,)
        for size in shape[1:]:
            level = list(chain.from_iterable(level))
            if set(map(len, level)) != {size}:
                raise ragged(name)
    except (TypeError, ValueError) as error:
        raise ragged(name) from error
    return array


def brackets(shape: tuple[int, ...]) -> int:
    """How many lists an array of that shape is."""
    return sum(accumulate((1, *shape[:-1]), operator.mul))


def read_text(name: str, text: memoryview, pause: Pause) -> Array:
    """The array of lists that are not parsed yet, and not empty. Raises InvalidInput."""
    start, blocks, skeleton = 0, list[Array](), bytearray()
    while start < len(text):
        raw = _until_comma(text, start)
        start += len(raw)
        classes = raw.translate(_CLASSES, _SPACE)
        if any(pair in classes for pair in _IMPOSSIBLE) or (blocks and classes[:1] in (b"]", b",")):
            raise ragged(name)
        skeleton += classes.translate(None, b"0")
        try:
            flat = simdjson.Parser().parse(b"[%b]" % raw.translate(_FLAT).removesuffix(b","))
        except (ValueError, RuntimeError) as error:
            raise not_numbers(name) from error
        assert isinstance(flat, simdjson.Array)
        blocks.append(_numbers(name, flat))
        pause()
    shape = _shape(bytes(skeleton))
    if shape is None or sum(map(len, blocks)) != math.prod(shape):
        raise ragged(name)
    return np.concatenate(blocks).reshape(shape)


def _until_comma(text: memoryview, start: int) -> bytes:
    """About a block of the text, ending with a comma or at the text's end."""
    size = BLOCK
    while True:
        raw = bytes(text[start : start + size])
        comma = raw.rfind(b",")
        if start + size >= len(text):
            return raw
        if comma >= 0:
            return raw[: comma + 1]
        size *= 2


def _shape(skeleton: bytes) -> tuple[int, ...] | None:
    """The shape of lists of which only brackets and commas are left; None if they differ in length."""
    depth = len(skeleton) - len(skeleton.lstrip(b"["))
    if depth > MAX_DIMENSIONS:
        return None
    row, sizes = b"", list[int]()
    for level in range(1, depth):
        # The first list at this level, from its opening bracket to the first that many brackets that close.
        end = skeleton.find(b"]" * level) + level
        size = (end - (depth - level) - 1) // (len(row) + 1)
        row = b"[%b]" % b",".join([row] * size)
        sizes.insert(0, size)
    rows = np.frombuffer(skeleton[1:-1] + b",", np.uint8)
    pattern = np.frombuffer(row + b",", np.uint8)
    if skeleton[-1:] != b"]" or len(rows) % len(pattern) or (rows.reshape(-1, len(pattern)) != pattern).any():
        return None
    return (len(rows) // len(pattern), *sizes)


def _numbers(name: str, lists: simdjson.Array) -> Array:
    try:
        return np.frombuffer(lists.as_buffer(of_type="i"), np.int64)
    except (TypeError, ValueError):
        pass
    try:
        return np.frombuffer(lists.as_buffer(of_type="d"), np.float64)
    except (TypeError, ValueError) as error:
        raise not_numbers(name) from error


def not_numbers(name: str) -> InvalidInput:
    return InvalidInput.at(f"/{name}", f"{name} must be nested lists of numbers, without null, NaN, text or booleans")


def ragged(name: str) -> InvalidInput:
    return InvalidInput.at(
        f"/{name}", f"{name} is ragged: its nested lists differ in length, or hold more than numbers"
    )


def write(array: Array) -> Iterator[bytes]:
    """The text of a contiguous array, a block of numbers at a time."""
    if array.size <= BLOCK:
        yield orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
        return
    rows = BLOCK * len(array) // array.size
    before = b"["
    for start in range(0, len(array), max(1, rows)):
        yield before
        if rows:
            yield orjson.dumps(array[start : start + rows], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        else:
            yield from write(array[start])
        before = b","
    yield b"]"
