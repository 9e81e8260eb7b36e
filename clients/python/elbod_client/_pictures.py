"""Rows of images as one PNG, without an imaging library."""

import math
import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Images of a grid that is shown in a notebook; and pixels that a small image is enlarged to.
MAX_SHOWN: Final = 64
MIN_SIDE: Final = 32
_MARGIN: Final = 1
_GREY: Final = 128


def are_images(x: Array) -> bool:
    """Whether rows are (H, W), or (C, H, W) with one or three channels."""
    return len(x) > 0 and (x.ndim == 3 or (x.ndim == 4 and x.shape[1] in (1, 3)))


def grid(x: Array) -> bytes:
    """The PNG of a grid, as square as possible. The largest value is white; the smallest is black if it is below zero.

    Raises ValueError for rows that are no images.
    """
    if not are_images(x):
        raise ValueError(f"rows of shape {x.shape[1:]} are no images: (H, W), (1, H, W) or (3, H, W)")
    pixels = _bytes(np.moveaxis(x, 1, -1) if x.ndim == 4 else x[..., None])
    n, height, width, channels = pixels.shape
    zoom = -(-MIN_SIDE // min(height, width))
    columns = math.ceil(math.sqrt(n))
    height, width = height * zoom + _MARGIN, width * zoom + _MARGIN
    canvas = np.full((math.ceil(n / columns) * height - _MARGIN, columns * width - _MARGIN, channels), _GREY, np.uint8)
    for i, image in enumerate(pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return _png(canvas)


def _bytes(x: Array) -> NDArray[np.uint8]:
    values = x.astype(np.float64)
    low, high = min(0.0, float(values.min())), float(values.max())
    scaled = (values - low) * (255 / (high - low) if high > low else 0)
    return np.rint(scaled).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, C) as PNG (ISO/IEC 15948): one filter byte, 0, before each line."""
    height, width, channels = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
