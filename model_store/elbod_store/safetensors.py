"""The header of a safetensors file, checked without torch: nothing else is ever published as weights.

8 bytes little-endian header length, a JSON object {tensor: {dtype, shape, data_offsets}}, then the tensors' bytes,
one after another without a gap. A pickle fails the first test, and no pickle is ever opened.
Source: https://github.com/huggingface/safetensors#format
"""

import io
import math
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
from msgspec import Meta

from elbod_store.errors import InvalidDraft

MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library itself

_BITS: Final = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}

_Count = Annotated[int, Meta(ge=0)]


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]


def check_file(weights: bytes | Path) -> None:
    """Raises InvalidDraft unless `weights` (bytes, or a file) is a complete safetensors file."""
    if isinstance(weights, bytes):
        _check(io.BytesIO(weights), len(weights), "weights")
    elif isinstance(weights, Path):
        try:
            with weights.open("rb") as file:
                _check(file, weights.stat().st_size, str(weights))
        except OSError as error:
            raise InvalidDraft(f"cannot read the weights {weights}: {error}") from error
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
            raise InvalidDraft(f"{where}: tensor {name!r} has the unknown dtype {tensor.dtype!r}")
        if start != end or (stop - start) * 8 != math.prod(tensor.shape) * _BITS[tensor.dtype]:
            raise InvalidDraft(f"{where}: the bytes of tensor {name!r} do not fit its shape, or leave a gap")
        end = stop
    if 8 + length + end != size:
        raise InvalidDraft(f"{where} has {size} bytes, but its header describes {8 + length + end}: it was cut short")
