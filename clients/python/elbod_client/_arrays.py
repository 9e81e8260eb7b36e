"""Arrays of the caller as one of the four dtypes that elbod reads, never losing a bit on the way."""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WIRE: Final[dict[str, str]] = {
    "bool": "<u1",
    "uint8": "<u1",
    "int8": "<i8",
    "int16": "<i8",
    "int32": "<i8",
    "int64": "<i8",
    "uint16": "<i8",
    "uint32": "<i8",
    "uint64": "<i8",
    "float16": "<f4",
    "float32": "<f4",
    "float64": "<f8",
}


def as_wire(name: str, value: ArrayLike) -> NDArray[Any]:
    """`value` as a little-endian, C-contiguous array of uint8, int64, float32 or float64.

    bool becomes uint8, other integers int64, float16 float32. Raises TypeError for what would lose something, and
    ValueError for ragged lists.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop the masked values first")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from error
    target = _WIRE.get(array.dtype.name)
    if target is None:
        raise TypeError(f"{name} has dtype {array.dtype}: elbod reads booleans, integers and floats up to float64")
    if array.dtype.name == "uint64" and array.size and int(array.max()) >= 2**63:
        raise TypeError(f"{name} has dtype uint64 and a value of {int(array.max())}, which int64 cannot hold")
    return np.asarray(array, dtype=target, order="C")
