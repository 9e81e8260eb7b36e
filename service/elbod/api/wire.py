"""Bytes to arrays and back: JSON with nested lists or base64, and safetensors.

A decoded request is a pair (fields, arrays): what is not an array, for `schemas`, and numpy arrays by name. Numbers of
nested lists are copied out of the parsed text, arrays of a safetensors body are views of it. The `safetensors` library
cannot read the metadata of a body in memory, so the format (8 bytes of header length, a JSON header, the tensors'
bytes) is parsed here, with strict bounds.
"""

import base64
import binascii
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from elbod.api import nested_lists
from elbod.api.blocks import INLINE_BYTES
from elbod.api.long_json import MAX_KEYS, cut_out
from elbod.errors import InvalidInput, Malformed, shown
from elbod.requests.blocks import BLOCK, Pause, no_pause

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
_MAX_HEADER = 64 * 1024
# Of a list that is no array.
_MAX_ENTRIES = 16
# Bytes that are copied at once.
_COPIED = 512 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decode_json(
    body: bytes | bytearray, array_names: Sequence[str], pause: Pause = no_pause
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Fields and arrays of a JSON body. Raises Malformed, or InvalidInput naming the array."""
    rest, cut = (body, {}) if len(body) <= INLINE_BYTES else cut_out(body, array_names, pause)
    fields, arrays, parsed = dict[str, Any](), dict[str, Array](), dict[str, simdjson.Array]()
    for name, value in _members(rest, "the body"):
        if name not in array_names:
            fields[name] = _plain(name, value)
        elif isinstance(value, simdjson.Object):
            arrays[name] = _from_base64(name, value, cut.get(name), pause)
        elif name in cut:
            arrays[name] = nested_lists.read_text(name, cut[name], pause)
        elif isinstance(value, simdjson.Array):
            arrays[name], parsed[name] = nested_lists.read(name, value), value
        elif value is not None:
            arrays[name] = _scalar(name, value)
    _find_hidden_lists(rest, arrays, parsed)
    return fields, arrays


def _members(text: bytes | bytearray | memoryview, what: str) -> list[tuple[str, Any]]:
    """Keys and unconverted values of a JSON object with few keys, each given once."""
    raw = bytes(text).removeprefix(_BYTE_ORDER_MARK)
    try:
        document = simdjson.Parser().parse(raw)
    except (ValueError, RuntimeError) as error:
        raise _unreadable(raw, what) from error
    if not isinstance(document, simdjson.Object):
        raise Malformed(f"{what} must be a JSON object")
    if len(document) > MAX_KEYS:
        raise InvalidInput.at("", f"{what} has {len(document)} keys, the limit is {MAX_KEYS}: no request has as many")
    names = list(document)
    if len(set(names)) < len(names):
        twice = shown(next(name for name in names if names.count(name) > 1))
        raise InvalidInput.at(f"/{twice}", f"{twice} is given twice")
    # The look-up of a name with a NUL, which no field has, finds nothing.
    return [(name, document.get(name)) for name in names]


def _unreadable(raw: bytes, what: str) -> InvalidInput | Malformed:
    """Why a short text is refused: orjson says where."""
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if b"NaN" in raw or b"Infinity" in raw:
            return InvalidInput.at("", f"{what} has NaN or Infinity, which JSON does not know: {error}")
        return Malformed(f"{what} is not JSON: {error}")
    return InvalidInput.at("", f"{what} has an integer beyond 64 bits: write it as a floating-point number")


def _plain(name: str, value: object) -> object:
    """A field that is no array. Lists and objects inside it become empty ones, which are refused just the same."""
    if isinstance(value, simdjson.Object):
        return {}
    if not isinstance(value, simdjson.Array):
        return value
    if len(value) > _MAX_ENTRIES:
        message = f"{shown(name)} has {len(value)} entries, the limit is {_MAX_ENTRIES}"
        raise InvalidInput.at(f"/{shown(name)}", message)
    return [[] if isinstance(entry, simdjson.Array) else _plain(name, entry) for entry in value]


def _scalar(name: str, value: object) -> Array:
    if name not in _SCALARS or type(value) not in (int, float):
        raise nested_lists.not_numbers(name)
    number = np.asarray(value)
    return number.astype(np.float64) if number.dtype.kind == "u" else number


def _find_hidden_lists(text: bytes | bytearray, arrays: dict[str, Array], parsed: dict[str, simdjson.Array]) -> None:
    """Refuse lists among the numbers of others: they make more brackets than the arrays' shapes have."""
    expected = {name: nested_lists.brackets(arrays[name].shape) for name in parsed}
    # Mostly the text has no other brackets. Writing the numbers again, without the rest of the text, takes longer.
    if text.count(b"[") != sum(expected.values()):
        for name, lists in parsed.items():
            if lists.mini.count(b"[") != expected[name]:  # type: ignore[arg-type]  # bytes, unlike what its stub says
                raise nested_lists.ragged(name)


def _from_base64(name: str, described: simdjson.Object, text: memoryview | None, pause: Pause) -> Array:
    """The array; `text` is its base64 if that was too long to be parsed."""
    value: dict[str, Any] = described.as_dict()
    if value.keys() != {"dtype", "shape", "data"} or len(described) != len(value):
        raise InvalidInput.at(f"/{name}", f"{name} must have exactly the keys dtype, shape and data")
    dtype, shape, data = value["dtype"], value["shape"], value["data"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidInput.at(f"/{name}/dtype", f"{name}.dtype must be one of {', '.join(DTYPES)}")
    if not _is_shape(shape):
        raise InvalidInput.at(f"/{name}/shape", f"{name}.shape must be a list of integers >= 0")
    try:
        raw = bytearray(base64.b64decode(data, validate=True)) if text is None else _long_base64(text, pause)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidInput.at(f"/{name}/data", f"{name}.data is not base64: {error}") from error
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if len(raw) != expected:
        raise InvalidInput.at(
            f"/{name}/data", f"{name}.data has {len(raw)} bytes, {dtype} of shape {shape} needs {expected}"
        )
    return np.frombuffer(raw, DTYPES[dtype]).reshape(shape)


def _long_base64(text: memoryview, pause: Pause) -> bytearray:
    """The bytes of a JSON string of base64, escapes included. Raises ValueError."""
    raw, escaped, clean = bytearray(), b"", b""
    for start in range(0, len(text), BLOCK):
        last = start + BLOCK >= len(text)
        escaped += text[start : start + BLOCK]
        # An escape, of six characters at most, is not cut in two.
        cut = -1 if last else escaped.rfind(b"\\", len(escaped) - 5)
        part, escaped = (escaped, b"") if cut < 0 else (escaped[:cut], escaped[cut:])
        clean += orjson.loads(b'"%b"' % part).encode() if b"\\" in part else part
        whole = len(clean) if last else len(clean) // 4 * 4
        if b"=" in clean[:whole] and not last:
            raise ValueError("padding before the end")
        raw += binascii.a2b_base64(clean[:whole], strict_mode=True)
        clean = clean[whole:]
        pause()
    return raw


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= nested_lists.MAX_DIMENSIONS
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
    data = view[8 + length :]
    header = {
        name: value.as_dict() if isinstance(value, simdjson.Object) else None
        for name, value in _members(view[8 : 8 + length], "the safetensors header")
    }
    metadata = header.pop("__metadata__", {})
    request = None if metadata is None else metadata.get("request", "{}")
    if not isinstance(request, str):
        raise Malformed("the safetensors __metadata__.request must be a JSON string")
    unknown = sorted(header.keys() - set(array_names))
    if unknown:
        known = ", ".join(array_names)
        raise InvalidInput.at(f"/{shown(unknown[0])}", f"unknown tensor {shown(unknown[0])!r}: known are {known}")
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
    members = _members(request.encode(), "the safetensors __metadata__.request")
    return {name: _plain(name, value) for name, value in members}, arrays


def tensor_names(body: bytearray) -> list[str]:
    """Names of the tensors of a safetensors body that is known to be well-formed."""
    header = orjson.loads(memoryview(body)[8 : 8 + int.from_bytes(body[:8], "little")])
    return [name for name in header if name != "__metadata__"]


def _tensor(name: str, entry: object, data: memoryview) -> tuple[Array, tuple[int, int]]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Malformed(f"the safetensors header entry {name!r} must have dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _SAFETENSORS_NAMES:
        known = ", ".join(_SAFETENSORS_NAMES)
        raise InvalidInput.at(f"/{name}", f"{name} has dtype {shown(str(entry['dtype']))}: must be one of {known}")
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


def encode_json(
    fields: Mapping[str, Any], arrays: Mapping[str, Array | None], *, as_base64: bool, pause: Pause = no_pause
) -> bytes | memoryview:
    """One JSON object of fields and arrays; undefined numbers and arrays are null."""
    contiguous = {name: None if a is None else np.ascontiguousarray(a) for name, a in arrays.items()}
    body, size = _nested(dict(fields) | contiguous), sum(a.nbytes for a in contiguous.values() if a is not None)
    if size <= INLINE_BYTES and not as_base64:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return _joined(_pieces(body, as_base64), size, pause)


def _joined(pieces: Iterator[bytes | memoryview], size: int, pause: Pause) -> bytes | memoryview:
    """The pieces of arrays of so many bytes, one after the other."""
    if size <= INLINE_BYTES:
        return b"".join(pieces)
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(piece) > BLOCK // 4:
            pause()
    return memoryview(body)


def _pieces(value: object, as_base64: bool) -> Iterator[bytes | memoryview]:
    if isinstance(value, dict):
        before = b"{"
        for key, inner in value.items():
            yield b"%b%b:" % (before, orjson.dumps(key))
            yield from _pieces(inner, as_base64)
            before = b","
        yield b"}" if value else b"{}"
    elif not isinstance(value, np.ndarray):
        yield orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    elif as_base64:
        yield from _to_base64(value)
    else:
        yield from nested_lists.write(value)


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


def _to_base64(array: Array) -> Iterator[bytes]:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    described = orjson.dumps({"dtype": array.dtype.name, "shape": list(array.shape), "data": ""})
    yield described[:-2]
    raw = little.data.cast("B") if little.nbytes else memoryview(b"")
    # Of a multiple of three bytes, so that only the last block is padded.
    for start in range(0, len(raw), 3 * BLOCK):
        yield binascii.b2a_base64(raw[start : start + 3 * BLOCK], newline=False)
    yield described[-2:]


def encode_safetensors(
    fields: Mapping[str, Any], arrays: Mapping[str, Array | None], pause: Pause = no_pause
) -> bytes | memoryview:
    """Tensors with the fields as one JSON string under `response`; undefined arrays are absent, numbers NaN."""
    header: dict[str, Any] = {"__metadata__": {"response": orjson.dumps(_nested(dict(fields))).decode()}}
    buffers, end = list[memoryview](), 0
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
        buffers.append(little.data.cast("B") if little.nbytes else memoryview(b""))
        end += little.nbytes
    raw = orjson.dumps(header)
    # Tensors start at a multiple of eight bytes, so that a reader can view them in place.
    raw += b" " * (-len(raw) % 8)
    start = len(raw).to_bytes(8, "little") + raw
    slices = (buffer[i : i + _COPIED] for buffer in buffers for i in range(0, len(buffer), _COPIED))
    return _joined(chain((start,), slices), end, pause)


@lru_cache(maxsize=64)
def best_media_type(accept: str | None, offers: tuple[str, ...]) -> str | None:
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
