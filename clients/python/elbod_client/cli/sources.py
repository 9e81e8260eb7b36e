"""Rows of a file or folder in batches, so that memory holds a few of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BATCH: Final = 4096
_BATCH_BYTES: Final = 32 * 1024**2
_IMAGES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# A column of labels, which is no element of x.
_LABEL: Final = "y"


@dataclass(frozen=True)
class Rows:
    """`rows` rows, of which `read(start, stop)` gives some; `batch` are read at once."""

    rows: int
    batch: int
    read: Callable[[int, int], Array]

    def batches(self, start: int = 0) -> Iterator[Array]:
        """All rows from `start` on."""
        for first in range(start, self.rows, self.batch):
            yield self.read(first, min(first + self.batch, self.rows))


def open_rows(path: Path, image_size: int | None = None) -> Rows:
    """Rows of an .npy, .npz (array x), .csv or .parquet file, or of a folder of images.

    `image_size` makes squares of so many pixels of images. Raises ValueError or OSError naming the path.
    """
    if path.is_dir():
        return _images(path, image_size)
    if image_size is not None:
        raise ValueError(f"--image-size is for folders of images: {path} is none")
    if path.suffix == ".npy":
        # Mapped, so that a file larger than memory can be read.
        return _array(path, np.load(path, mmap_mode="r", allow_pickle=False))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            if "x" not in found:
                raise ValueError(f"{path} has no array named x: it has {', '.join(found.files) or 'none'}")
            return _array(path, found["x"])
    if path.suffix in {".csv", ".parquet"}:
        return _table(path)
    raise ValueError(f"{path} is neither a folder of images nor an .npy, .npz, .csv or .parquet file")


def _array(path: Path, x: Array) -> Rows:
    if x.ndim < 2 or not len(x):
        raise ValueError(f"{path}: x has shape {x.shape}: it must be (n, *event_shape) with n >= 1")
    batch = max(1, min(BATCH, _BATCH_BYTES // max(1, x[:1].nbytes)))
    return Rows(len(x), batch, lambda start, stop: np.ascontiguousarray(x[start:stop]))


def _table(path: Path) -> Rows:
    try:
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"{path}: tables need pyarrow: pip install pyarrow, or save the numbers as .npy") from None
    read = pyarrow.parquet.read_table if path.suffix == ".parquet" else pyarrow.csv.read_csv
    table = read(path)
    names = [name for name in table.column_names if name != _LABEL]
    for name in names:
        if table[name].null_count or not _is_number(table[name].type):
            raise ValueError(f"{path}: column {name!r} has missing values or holds {table[name].type}, not numbers")
    whole = not any(pyarrow.types.is_floating(table[name].type) for name in names)
    dtype = np.int64 if whole else np.float64
    return _array(path, np.stack([table[name].to_numpy().astype(dtype) for name in names], axis=1))


def _is_number(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind))


def _images(folder: Path, size: int | None) -> Rows:
    """(n, C, H, W) of the images in the order of their paths, as elbod's worker reads them."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError(f"{folder}: images need Pillow: pip install pillow") from None
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _IMAGES and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise ValueError(f"{folder} has no images")

    def colour(path: Path) -> bool:
        with Image.open(path) as image:
            return image.mode not in ("1", "L")

    mode = "RGB" if any(map(colour, paths)) else "L"

    def read_one(path: Path) -> Array:
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened).convert(mode)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        if size is not None:
            image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image, np.uint8)
        return pixels[None] if mode == "L" else np.moveaxis(pixels, -1, 0)

    first = read_one(paths[0])

    def read(start: int, stop: int) -> Array:
        images = [read_one(path) for path in paths[start:stop]]
        for path, image in zip(paths[start:stop], images, strict=True):
            if image.shape != first.shape:
                raise ValueError(f"{path} is of another size than {paths[0]}: resize them all with --image-size N")
        return np.stack(images)

    return Rows(len(paths), max(1, min(BATCH, _BATCH_BYTES // first.nbytes)), read)
