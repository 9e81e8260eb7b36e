"""Samples as one PNG: a grid, as square as possible, of images with one or three channels."""

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elbod.errors import NotAcceptable
from elbod.generators.likelihoods import Likelihood
from elbod.requests.blocks import BLOCK, Pause, no_pause

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

# Small scans are enlarged, so that a grid can be looked at.
_MIN_TILE = 32
_MARGIN = 1


def png_grid(x: NDArray[Any], likelihood: Likelihood, pause: Pause = no_pause) -> bytes:
    """The PNG of x (n, *event_shape) in data units. Raises NotAcceptable where an event is no image."""
    n, first = len(x), pixels_of(x[:1], likelihood)
    zoom = max(1, -(-_MIN_TILE // min(first.shape[1:3])))
    height, width = first.shape[1] * zoom, first.shape[2] * zoom
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    shape = (rows * (height + _MARGIN) - _MARGIN, columns * (width + _MARGIN) - _MARGIN, *first.shape[3:])
    canvas = np.full(shape, 128, np.uint8)
    step = max(1, BLOCK // first.size)
    for start in range(0, n, step):
        pixels = pixels_of(x[start : start + step], likelihood).repeat(zoom, axis=1).repeat(zoom, axis=2)
        for i, image in enumerate(pixels, start):
            top, left = i // columns * (height + _MARGIN), i % columns * (width + _MARGIN)
            canvas[top : top + height, left : left + width] = image
        pause()
    out = _Output(pause)
    Image.fromarray(canvas).save(out, "png")
    return out.getvalue()


class _Output(io.BytesIO):
    """A file that pauses whenever a part of it is written."""

    def __init__(self, pause: Pause) -> None:
        super().__init__()
        self._pause = pause

    def write(self, part: "Buffer", /) -> int:
        self._pause()
        return super().write(part)


def pixels_of(x: NDArray[Any], likelihood: Likelihood) -> NDArray[np.uint8]:
    """(n, H, W) or (n, H, W, 3) in 0 ... 255: levels and probabilities stretched, densities clipped to [0, 1]."""
    shape = likelihood.event_shape
    if len(shape) == 3 and shape[0] in (1, 3):
        x = x[:, 0] if shape[0] == 1 else np.moveaxis(x, 1, -1)
    elif len(shape) != 2:
        raise NotAcceptable(f"an event of shape {list(shape)} is no image: ask for application/json")
    top = (likelihood.levels or 2) - 1
    return np.clip(np.rint(x.astype(np.float64) * (255 / top)), 0, 255).astype(np.uint8)
