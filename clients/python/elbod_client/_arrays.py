"""Arrays of the caller as one of the four dtypes that elbod reads, never losing a bit on the way."""

from collections.abc import Sequence
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
    array = _as_array(name, value)
    target = _WIRE.get(array.dtype.name)
    if target is None:
        raise TypeError(f"{name} has dtype {array.dtype}: elbod reads booleans, integers and floats up to float64")
    if array.dtype.name == "uint64" and array.size and int(array.max()) >= 2**63:
        raise TypeError(f"{name} has dtype uint64 and a value of {int(array.max())}, which int64 cannot hold")
    return np.asarray(array, dtype=target, order="C")


def as_labels(value: ArrayLike, rows: int | None) -> NDArray[np.int64]:
    """Class numbers as int64: () for all rows, or (rows,), of any length where `rows` is None.

    Raises TypeError for what is no integer, and ValueError for another shape or a negative number.
    """
    if isinstance(value, Sequence):
        # Next to an integer, numpy reads True as 1.
        for i, item in enumerate(value):
            if isinstance(item, bool | np.bool_):
                raise TypeError(f"label[{i}] is a boolean: class numbers are integers")
    array = _as_array("label", value)
    fits = array.shape == (rows,) or (rows is None and array.ndim == 1 and array.size > 0)
    if array.ndim and not fits:
        wanted = "one for each row" if rows is None else f"{rows} of them, one for each row"
        raise ValueError(f"label has shape {array.shape}: it must be one class number for all rows, or {wanted}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"label has dtype {array.dtype}: class numbers are integers")
    labels = as_wire("label", array).astype("<i8", copy=False)
    negative = labels < 0
    if negative.any():
        place = f"label[{negative.argmax()}]" if labels.ndim else "label"
        raise ValueError(f"{place} is {labels[negative][0]}: class numbers begin at 0")
    return labels


def _as_array(name: str, value: ArrayLike) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop the masked values first")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from error
