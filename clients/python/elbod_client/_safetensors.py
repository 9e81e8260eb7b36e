"""The bodies of elbod: named tensors, and all other fields as one JSON string in the header's metadata.

8 bytes little-endian header length, a JSON object {tensor: {dtype, shape, data_offsets}}, then the tensors' bytes,
one after another without a gap. Source: https://github.com/huggingface/safetensors#format
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from elbod_client._json import Malformed, parse_object

Array = NDArray[Any]

MEDIA_TYPE: Final = "application/x-safetensors"
# What an answer's header may take: kilobytes are usual.
MAX_HEADER: Final = 16 * 1024**2
MAX_DIMENSIONS: Final = 16

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_CODES: Final = {dtype: code for code, dtype in _DTYPES.items()}


def write(fields: Mapping[str, object], arrays: Mapping[str, Array]) -> bytes:
    """A request: little-endian, C-contiguous arrays, and `fields` under the metadata's `request`."""
    header: dict[str, Any] = {"__metadata__": {"request": json.dumps(fields)}}
    end = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    raw = json.dumps(header).encode()
    # Tensors start at a multiple of eight bytes, so that the reader can view them in place.
    raw += b" " * (-len(raw) % 8)
    buffers = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    return b"".join([len(raw).to_bytes(8, "little"), raw, *buffers])


def read(body: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The fields under the metadata's `response`, and the tensors as read-only views of `body`.

    A tensor that starts off its dtype's alignment is a copy; one of a dtype that numpy lacks is left out. Raises
    Malformed.
    """
    if len(body) < 8:
        raise Malformed(f"the safetensors body is cut short: it has {len(body)} bytes")
    length = int.from_bytes(body[:8], "little")
    if length > min(MAX_HEADER, len(body) - 8):
        raise Malformed(f"the safetensors body of {len(body)} bytes claims a header of {length} bytes")
    header = parse_object(body[8 : 8 + length], "the safetensors header")
    start = 8 + length
    metadata = header.pop("__metadata__", None)
    response = metadata.get("response") if isinstance(metadata, dict) else None
    if not isinstance(response, str):
        raise Malformed("the safetensors __metadata__.response is missing")
    spans = {name: _span(name, entry, len(body) - start) for name, entry in header.items()}
    _check_packed(spans, len(body) - start)
    arrays = {
        name: _view(name, entry, body, start + spans[name][0], spans[name][1] - spans[name][0])
        for name, entry in header.items()
        if entry["dtype"] in _DTYPES
    }
    return parse_object(response, "the safetensors __metadata__.response"), arrays


def _span(name: str, entry: object, size: int) -> tuple[int, int]:
    """The tensor's first byte and the one after its last."""
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        raise Malformed(f"the safetensors tensor {name!r} lacks dtype, shape or data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise Malformed(f"the safetensors tensor {name!r} has an impossible dtype, shape or data_offsets")
    begin, stop = offsets
    if not begin <= stop <= size:
        raise Malformed(f"the safetensors body is cut short: {name!r} ends at byte {stop} of {size}")
    return begin, stop


def _are_counts(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= MAX_DIMENSIONS
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in values)
    )


def _check_packed(spans: Mapping[str, tuple[int, int]], size: int) -> None:
    end = 0
    for begin, stop in sorted(spans.values()):
        if begin != end:
            raise Malformed("the safetensors tensors overlap or leave a gap")
        end = stop
    if end != size:
        raise Malformed(f"the safetensors body has {size} bytes of tensors, its header describes {end}")


def _view(name: str, entry: Mapping[str, Any], body: bytes, offset: int, size: int) -> Array:
    dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
    count = math.prod(shape)
    if count * dtype.itemsize != size:
        raise Malformed(f"the safetensors tensor {name!r} has {size} bytes, which do not fit its shape {shape}")
    array = np.frombuffer(body, dtype, count, offset) if count else np.empty(0, dtype)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array.reshape(shape)
