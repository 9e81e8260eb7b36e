"""The header of a safetensors file, checked without torch: nothing else is ever published as weights.

8 bytes little-endian header length, a JSON object {tensor: {dtype, shape, data_offsets}}, then the tensors' bytes,
one after another without a gap. A pickle fails the first test, and no pickle is ever opened.
Source: https://github.com/huggingface/safetensors#format
"""

import io
import math
import os
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
from msgspec import Meta

from elbod_store.errors import InvalidDraft
from elbod_store.files import Content, opened, path_of, unreadable
from elbod_store.names import shown

MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library itself
MAX_AXES: Final = 64  # of torch and of NumPy; the product of a million lengths takes hours

_BITS: Final = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}

_Count = Annotated[int, Meta(ge=0)]


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[list[_Count], Meta(max_length=MAX_AXES)]
    data_offsets: tuple[_Count, _Count]


def check_file(weights: Content) -> None:
    """Raises InvalidDraft unless `weights` is a complete safetensors file."""
    if isinstance(weights, bytes):
        _check(io.BytesIO(weights), len(weights), "weights")
    elif isinstance(weights, Path | io.BufferedReader):
        try:
            with opened(weights) as file:
                _check(file, os.fstat(file.fileno()).st_size, path_of(weights))
        except OSError as error:
            raise InvalidDraft(unreadable(weights, error)) from error
    else:
        raise InvalidDraft(f"weights is a {type(weights).__name__}: give the bytes of a safetensors file, or its Path")


def _check(file: BinaryIO, size: int, where: str) -> None:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise InvalidDraft(
            f"{where} is no safetensors file: its first 8 bytes give no plausible header length. "
            "Only safetensors is published; save the tensors with safetensors.torch.save_file, never with pickle"
        )
    try:
        fields = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        metadata = fields.pop("__metadata__", None)
        if metadata is not None:
            msgspec.json.decode(metadata, type=dict[str, str])
        tensors = {name: msgspec.json.decode(raw, type=_Tensor) for name, raw in fields.items()}
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidDraft(f"{where} is no safetensors file: its header is malformed: {error}") from error
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        start, stop = tensor.data_offsets
        if tensor.dtype not in _BITS:
            raise InvalidDraft(f"{where}: tensor {shown(name)} has the unknown dtype {shown(tensor.dtype)}")
        if start != end or (stop - start) * 8 != math.prod(tensor.shape) * _BITS[tensor.dtype]:
            raise InvalidDraft(f"{where}: the bytes of tensor {shown(name)} do not fit its shape, or leave a gap")
        end = stop
    if 8 + length + end != size:
        raise InvalidDraft(f"{where} has {size} bytes, but its header describes {8 + length + end}: it was cut short")
