"""Arrays of the caller as one of the four dtypes that elbod reads, never losing a bit on the way.

Tensors of torch and images of Pillow are known by what they offer, so that neither is imported here.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Image(Protocol):
    """What Pillow's images have."""

    @property
    def mode(self) -> str: ...
    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Rows: TypeAlias = ArrayLike | Image | Sequence[Image]

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


def as_wire(name: str, value: Any) -> NDArray[Any]:
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


def as_rows(name: str, value: Rows) -> NDArray[Any]:
    """As `as_wire`, of torch's tensors (from any device) and of Pillow's images, too, or of lists of them.

    A grey image is (H, W), one in colour (3, H, W), and an image alone one row. Raises TypeError for other modes.
    """
    if _is_image(value):
        return as_wire(name, _pixels(name, value)[None])
    if isinstance(value, Sequence) and len(value) and (_is_image(value[0]) or _is_tensor(value[0])):
        rows = [_pixels(name, item) if _is_image(item) else np.asarray(_plain(item)) for item in value]
        for i, row in enumerate(rows):
            if row.shape != rows[0].shape:
                raise ValueError(f"{name}[{i}] has shape {row.shape}, {name}[0] {rows[0].shape}: rows must be alike")
        return as_wire(name, np.stack(rows))
    return as_wire(name, _plain(value))


def _is_tensor(value: object) -> bool:
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(value).__mro__)


def _is_image(value: object) -> bool:
    return hasattr(value, "__array_interface__") and hasattr(value, "mode")


def _plain(value: Any) -> Any:
    """A tensor as numpy's; everything else as it is."""
    if not _is_tensor(value):
        return value
    tensor = value.detach().cpu()
    # numpy lacks it, and float32 holds all of its values.
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _pixels(name: str, image: Any) -> NDArray[Any]:
    if image.mode in ("1", "L"):
        return np.asarray(image)
    if image.mode == "RGB":
        return np.moveaxis(np.asarray(image), -1, 0)
    raise TypeError(f"{name} has an image of mode {image.mode!r}: convert it to 'L' or 'RGB'")


def as_labels(value: Rows, rows: int | None) -> NDArray[np.int64]:
    """Class numbers as int64: () for all rows, or (rows,), of any length where `rows` is None.

    Raises TypeError for what is no integer, and ValueError for another shape or a negative number.
    """
    if isinstance(value, Sequence):
        # Next to an integer, numpy reads True as 1.
        for i, item in enumerate(value):
            if isinstance(item, bool | np.bool_):
                raise TypeError(f"label[{i}] is a boolean: class numbers are integers")
    array = _as_array("label", _plain(value))
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


def _as_array(name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop the masked values first")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from error
