"""Bytes to arrays and back: JSON with nested lists or base64, and safetensors.

A decoded request is a pair (fields, arrays): what is not an array, for `schemas`, and numpy arrays by name. Numbers of
well-formed nested lists are copied out of the parsed text, arrays of a safetensors body are views of it. The
`safetensors` library cannot read the metadata of a body in memory, so the format (8 bytes of header length, a JSON
header, the tensors' bytes) is parsed here, with strict bounds.
"""

import base64
import binascii
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from elbod.errors import InvalidInput, Malformed

Array = NDArray[Any]
JSON_TYPE = "application/json"
SAFETENSORS_TYPE = "application/x-safetensors"
PNG_TYPE = "image/png"

DTYPES: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("<u1"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}
_SAFETENSORS_NAMES = {"U8": "uint8", "I64": "int64", "F32": "float32", "F64": "float64"}
# Booleans are written and never read: no request has any.
_SAFETENSORS_CODES = {DTYPES[name]: code for code, name in _SAFETENSORS_NAMES.items()} | {np.dtype(np.bool_): "BOOL"}
# Arrays that may be one number.
_SCALARS = ("label",)
_MAX_HEADER = 1024**2
_BLOCK = 16_384  # numbers
_MAX_DIMENSIONS = 64  # numpy's own


def decode_json(body: bytes | bytearray, array_names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Fields and arrays of a JSON body. Raises Malformed, or InvalidInput naming the array."""
    if (found := _decode_packed(body, array_names)) is not None:
        return found
    fields = _json_object(body, "the body")
    arrays = {}
    for name in array_names:
        value = fields.pop(name, None)
        if value is not None:
            arrays[name] = _from_base64(name, value) if isinstance(value, dict) else _from_lists(name, value)
    return fields, arrays


def _decode_packed(
    body: bytes | bytearray, array_names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """The same without a Python object a number, for plain bodies with rectangular lists of numbers; None for all else,
    which is read, or refused, in the slow way.
    """
    fields: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    brackets = 0
    try:
        document = simdjson.Parser().parse(body)
        if type(document) is not simdjson.Object:
            return None
        for key in document:
            if key in fields or key in arrays:
                return None
            # Its items() would make Python objects of all.
            value = document[key]
            brackets += key.count("[")
            if key in array_names:
                if type(value) is simdjson.Array:
                    arrays[key] = _packed(value)
                    brackets += sum(accumulate((1, *arrays[key].shape[:-1]), operator.mul))
                elif value is not None:
                    return None
            else:
                fields[key] = _plain(value)
                brackets += orjson.dumps(fields[key]).count(b"[")
    except (ValueError, TypeError, RuntimeError, IndexError):
        return None
    # What is copied has lost its brackets: as many of them as there are say that no list was deeper than the others.
    # Escapes would let a text have fewer brackets than are counted for it.
    return (fields, arrays) if body.count(b"[") == brackets and b"\\" not in body else None


def _plain(value: object) -> object:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _packed(lists: simdjson.Array) -> Array:
    """Nested lists of numbers, some at least. Raises ValueError, TypeError or IndexError for others; that no list is
    deeper the caller must check.
    """
    shape = [len(lists)]
    level: list[Any] = [lists]
    while type(level[0][0]) is simdjson.Array:
        level = [inner for outer in level for inner in outer]
        (size,) = {len(inner) for inner in level}
        shape.append(size)
    try:
        numbers = np.frombuffer(lists.as_buffer(of_type="i"), np.int64)
    except TypeError:
        numbers = np.frombuffer(lists.as_buffer(of_type="d"), np.float64)
    return numbers.reshape(shape)


def _json_object(raw: bytes | bytearray | memoryview, what: str) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if any(token in bytes(raw) for token in (b"NaN", b"Infinity")):
            raise InvalidInput.at("", f"{what} has NaN or Infinity, which JSON does not know: {error}") from error
        raise Malformed(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed(f"{what} must be a JSON object, not {type(value).__name__}")
    return value


def _from_lists(name: str, value: object) -> Array:
    try:
        blocks = [np.asarray(block) for block in _blocks(value)] if isinstance(value, list) else [np.asarray(value)]
        array = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    except ValueError as error:
        raise InvalidInput.at(f"/{name}", f"{name} is ragged: its nested lists differ in length") from error
    scalar = array.ndim == 0 and name not in _SCALARS
    # Among numbers numpy takes booleans for them.
    if scalar or any(block.dtype.kind not in "iuf" for block in blocks) or _has_boolean(value):
        raise InvalidInput.at(f"/{name}", f"{name} must be nested lists of numbers, without null, text or booleans")
    if array.dtype.kind == "u" or array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    return array.astype(np.int64, copy=False)


def _has_boolean(value: object) -> bool:
    return any(map(_has_boolean, value)) if isinstance(value, list) else isinstance(value, bool)


def _blocks(rows: list[Any]) -> Iterator[list[Any]]:
    """Rows of some thousand numbers at a time: numpy holds the interpreter while it reads a block, and other threads
    have their turn in between.
    """
    first, numbers = rows[:1], 1
    while isinstance(first, list) and first:
        numbers, first = numbers * len(first), first[0]
    step = max(1, _BLOCK // max(1, numbers))
    # At least one block, of no rows where there are none.
    yield from (rows[start : start + step] for start in range(0, max(1, len(rows)), step))


def _from_base64(name: str, value: dict[str, Any]) -> Array:
    if value.keys() != {"dtype", "shape", "data"}:
        raise InvalidInput.at(f"/{name}", f"{name} must have exactly the keys dtype, shape and data")
    dtype, shape, data = value["dtype"], value["shape"], value["data"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidInput.at(f"/{name}/dtype", f"{name}.dtype must be one of {', '.join(DTYPES)}")
    if not _is_shape(shape):
        raise InvalidInput.at(f"/{name}/shape", f"{name}.shape must be a list of integers >= 0")
    try:
        raw = bytearray(base64.b64decode(data, validate=True))
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidInput.at(f"/{name}/data", f"{name}.data is not base64: {error}") from error
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if len(raw) != expected:
        raise InvalidInput.at(
            f"/{name}/data", f"{name}.data has {len(raw)} bytes, {dtype} of shape {shape} needs {expected}"
        )
    return np.frombuffer(raw, DTYPES[dtype]).reshape(shape)


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= _MAX_DIMENSIONS
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in shape)
        # A zero among the sizes must not hide sizes that no array can have.
        and math.prod(n for n in shape if n) < 2**60
    )


def decode_safetensors(body: bytearray, array_names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Fields (the metadata's `request`) and tensors of a safetensors body. Raises Malformed, or InvalidInput."""
    if len(body) < 8:
        raise Malformed(f"the safetensors body is truncated: {len(body)} bytes")
    length = int.from_bytes(body[:8], "little")
    if length > min(_MAX_HEADER, len(body) - 8):
        raise Malformed(f"the safetensors body is truncated or its header too long: the header claims {length} bytes")
    view = memoryview(body)
    header = _json_object(view[8 : 8 + length], "the safetensors header")
    data = view[8 + length :]
    metadata = header.pop("__metadata__", {})
    request = metadata.get("request", "{}") if isinstance(metadata, dict) else None
    if not isinstance(request, str):
        raise Malformed("the safetensors __metadata__.request must be a JSON string")
    arrays, spans = {}, []
    for name, entry in header.items():
        array, span = _tensor(name, entry, data)
        arrays[name] = array
        spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise Malformed("the safetensors tensors overlap or leave a gap")
        end = stop
    if end != len(data):
        raise Malformed(f"the safetensors body has {len(data)} bytes of tensors, its header describes {end}")
    unknown = sorted(arrays.keys() - set(array_names))
    if unknown:
        raise InvalidInput.at(f"/{unknown[0]}", f"unknown tensor {unknown[0]!r}: known are {', '.join(array_names)}")
    return _json_object(request.encode(), "the safetensors __metadata__.request"), arrays


def tensor_names(body: bytearray) -> list[str]:
    """Names of the tensors of a safetensors body that is known to be well-formed."""
    header = orjson.loads(memoryview(body)[8 : 8 + int.from_bytes(body[:8], "little")])
    return [name for name in header if name != "__metadata__"]


def _tensor(name: str, entry: object, data: memoryview) -> tuple[Array, tuple[int, int]]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Malformed(f"the safetensors header entry {name!r} must have dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _SAFETENSORS_NAMES:
        known = ", ".join(_SAFETENSORS_NAMES)
        raise InvalidInput.at(f"/{name}", f"{name} has dtype {entry['dtype']!r}: must be one of {known}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _is_shape(shape) or not _is_shape(offsets) or len(offsets) != 2:
        raise Malformed(f"the safetensors header entry {name!r} has an impossible shape or data_offsets")
    dtype, (begin, stop) = DTYPES[_SAFETENSORS_NAMES[entry["dtype"]]], offsets
    if not begin <= stop <= len(data):
        raise Malformed(f"the safetensors body is truncated: {name!r} ends at byte {stop} of {len(data)}")
    if stop - begin != math.prod(shape) * dtype.itemsize:
        raise Malformed(f"the safetensors tensor {name!r} has {stop - begin} bytes, which do not fit its shape {shape}")
    array = np.frombuffer(data[begin:stop], dtype).reshape(shape)
    return (array if array.flags.aligned else array.copy()), (begin, stop)


def encode_json(fields: Mapping[str, Any], arrays: Mapping[str, Array | None], *, as_base64: bool) -> bytes:
    """One JSON object of fields and arrays; undefined numbers and arrays are null."""
    if as_base64:
        body = dict(fields) | {name: None if a is None else _to_base64(a) for name, a in arrays.items()}
    else:
        body = dict(fields) | {name: None if a is None else np.ascontiguousarray(a) for name, a in arrays.items()}
    return orjson.dumps(_nested(body), option=orjson.OPT_SERIALIZE_NUMPY)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """`posterior.mean` is key `mean` of object `posterior`."""
    out: dict[str, Any] = {}
    for name, value in flat.items():
        head, dot, tail = name.partition(".")
        if dot:
            out.setdefault(head, {})[tail] = value
        else:
            out[name] = value
    return out


def _to_base64(array: Array) -> dict[str, Any]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(little.data).decode("ascii"),
    }


def encode_safetensors(fields: Mapping[str, Any], arrays: Mapping[str, Array | None]) -> bytes:
    """Tensors with the fields as one JSON string under `response`; undefined arrays are absent, numbers NaN."""
    header: dict[str, Any] = {"__metadata__": {"response": orjson.dumps(_nested(dict(fields))).decode()}}
    buffers, end = [], 0
    for name, array in arrays.items():
        if array is None:
            continue
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        shape = list(array.shape)
        header[name] = {
            "dtype": _SAFETENSORS_CODES[little.dtype],
            "shape": shape,
            "data_offsets": [end, end + little.nbytes],
        }
        buffers.append(little.data.cast("B") if little.nbytes else b"")
        end += little.nbytes
    raw = orjson.dumps(header)
    # Tensors start at a multiple of eight bytes, so that a reader can view them in place.
    raw += b" " * (-len(raw) % 8)
    return b"".join([len(raw).to_bytes(8, "little"), raw, *buffers])


def best_media_type(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer that `Accept` likes best (RFC 9110, section 12.5.1), earlier offers winning ties; None if none fits."""
    if not accept:
        return offers[0]
    quality = dict.fromkeys(offers, (-1, 0.0))
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        q = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    q = float(parameter[2:])
                except ValueError:
                    q = 0.0
        for offer in offers:
            # The most specific range decides, not the one with the highest q.
            specificity = [r for r, pattern in enumerate(("*/*", f"{offer.split('/')[0]}/*", offer)) if kind == pattern]
            if specificity and specificity[0] >= quality[offer][0]:
                quality[offer] = (specificity[0], q)
    best = max(offers, key=lambda offer: quality[offer][1])
    return best if quality[best][1] > 0 else None
