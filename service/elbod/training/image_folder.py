"""Folders of images: every file one row, sub-folders classes."""

import warnings
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from elbod.training.errors import InvalidDataset

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_GREY = frozenset({"1", "L"})
# What Pillow raises for damaged and for oversized files.
_UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# More than eight bits a channel, which images of levels 0 ... 255 would lose.
_DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def is_image(path: str) -> bool:
    """Whether a file of that path within a folder of images is one of them; hidden ones are not."""
    parts = PurePosixPath(path)
    return parts.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in parts.parts)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and its sub-folders, in the order of their paths."""
    return sorted(
        path for path in folder.rglob("*") if is_image(path.relative_to(folder).as_posix()) and path.is_file()
    )


def read_images(
    folder: Path, size: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, str, tuple[str, ...] | None]:
    """x (n, C, H, W) bytes, C = 1 grey or 3 colours, numbers of the classes, what was done, and the classes' names.

    With `size`, each image is cropped in the middle to a square and resized to `size` pixels; without, all must be of
    one size. One image in colour makes all of them colour; transparency is ignored. Raises InvalidDataset.
    """
    paths = image_files(folder)
    classes = [path.relative_to(folder).parts[0] if path.parent != folder else None for path in paths]
    if None in classes and set(classes) != {None}:
        loose = paths[classes.index(None)].name
        raise InvalidDataset(f"{folder}: {loose} is in no class, others are in sub-folders: put all or none into them")
    images = [read_image(path, str(path), size) for path in paths]
    shapes = [image.shape[:2] for image in images]
    for path, shape in zip(paths, shapes, strict=True):
        if shape != shapes[0]:
            raise InvalidDataset(
                f"{folder}: {paths[0].relative_to(folder)} has {_pixels(shapes[0])}, {path.relative_to(folder)} "
                f"{_pixels(shape)}: resize them all with --set image_size=N"
            )
    channels = max(image.shape[-1] for image in images)
    x = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    how = "unchanged" if size is None else f"cropped to squares and resized to {size} x {size}"
    units = f"pixels are bytes of the image files, {'colour' if channels == 3 else 'grey'}, {how}"
    if classes[0] is None:
        return x, None, units, None
    names = sorted({str(name) for name in classes})
    numbers = {name: number for number, name in enumerate(names)}
    return x, np.array([numbers[str(name)] for name in classes], np.int64), units, tuple(names)


def read_image(file: Path | BinaryIO, name: str, size: int | None) -> NDArray[np.uint8]:
    """(H, W, C) bytes of one image, made a square of `size` pixels if that is given. Raises InvalidDataset."""
    try:
        with warnings.catch_warnings():
            # Of an image that would fill the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                if opened.mode in _DEEP:
                    raise InvalidDataset(f"{name} has more than 8 bits a channel: convert it, or save arrays as .npy")
                image: Image.Image = ImageOps.exif_transpose(opened)
                image = image.convert("L" if image.mode in _GREY else "RGB")
    except _UNREADABLE as error:
        raise InvalidDataset(f"{name} cannot be read as an image: {_first_line(error)}") from error
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _pixels(shape: tuple[Any, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
