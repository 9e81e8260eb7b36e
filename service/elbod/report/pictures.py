"""Events to look at: images as one PNG, anything else as lines."""

import base64
import io

import numpy as np
from PIL import Image

from elbod.engine.jobs import Array
from elbod.generators.likelihoods import Likelihood
from elbod.report.figures import INK, figure, styled, svg
from elbod.requests.images import pixels_of

_MIN_SIDE = 40
_GAP = 2


def is_image(event_shape: tuple[int, ...]) -> bool:
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def image_grid(x: Array, likelihood: Likelihood, columns: int, alt: str) -> str:
    """An <img> of x (n, *event_shape), `columns` in a row; pixels stay pixels."""
    pixels = pixels_of(x, likelihood)
    zoom = max(1, -(-_MIN_SIDE // max(pixels.shape[1:3])))
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    n, height, width = pixels.shape[:3]
    rows = -(-n // columns)
    shape = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP)
    # Between the images one sees the page.
    canvas = np.zeros((*shape, 4), np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (height + _GAP), i % columns * (width + _GAP)
        place = canvas[top : top + height, left : left + width]
        place[..., :3] = image if image.ndim == 3 else image[..., None]
        place[..., 3] = 255
    body = io.BytesIO()
    Image.fromarray(canvas).save(body, "png", optimize=True)
    data = base64.b64encode(body.getvalue()).decode()
    return f'<img alt="{alt}" width="{shape[1]}" height="{shape[0]}" src="data:image/png;base64,{data}">'


@styled
def marginals(x: Array, samples: Array, alt: str) -> str:
    """Quantiles of every column of rows and samples, in units of the rows' own spread."""
    centre, spread = _standard(x)
    made, axes = figure()
    for values, colour, name, shift in ((x, "C0", "held-out rows", -0.12), (samples, "C1", "samples", 0.12)):
        flat = (values.reshape(len(values), -1).astype(np.float64) - centre) / spread
        low, quarter, middle, three, high = np.quantile(flat, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
        place = np.arange(flat.shape[1]) + shift
        axes.vlines(place, low, high, color=colour, linewidth=1)
        axes.vlines(place, quarter, three, color=colour, linewidth=4, label=name)
        axes.plot(place, middle, "o", color=colour, markersize=3, markeredgecolor=INK, markeredgewidth=0.4)
    axes.set_xlabel("element of the row")
    axes.set_ylabel("standard deviations of the rows")
    axes.legend()
    return svg(made, alt)


@styled
def against(x: Array, reconstructions: Array, alt: str) -> str:
    """Every element of the rows against its reconstruction, standardised."""
    centre, spread = _standard(x)
    shown = x[: len(reconstructions)]
    ours, theirs = ((v.reshape(len(v), -1).astype(np.float64) - centre) / spread for v in (shown, reconstructions))
    made, axes = figure(width=4.5, height=4)
    limits = [float(min(ours.min(), theirs.min())), float(max(ours.max(), theirs.max()))]
    axes.plot(limits, limits, color=INK, linewidth=0.8)
    axes.plot(ours.ravel(), theirs.ravel(), ".", color="C0", markersize=4)
    axes.set_xlabel("row")
    axes.set_ylabel("reconstruction")
    return svg(made, alt)


@styled
def lines(x: Array, means: Array, names: list[str], alt: str) -> str:
    """E[x|z] (dimensions, steps, *event_shape) as lines over the row's elements, standardised by the rows x."""
    centre, spread = _standard(x)
    made, all_axes = figure(panels=len(means), height=1.7 * -(-len(means) // 2), columns=min(2, len(means)))
    places = list(np.atleast_1d(all_axes).ravel())
    for empty in places[len(means) :]:
        empty.remove()
    for axes, row, name in zip(places[: len(means)], means, names, strict=True):
        flat = (row.reshape(len(row), -1).astype(np.float64) - centre) / spread
        for step, values in enumerate(flat):
            axes.plot(values, color="C0", alpha=0.25 + 0.75 * step / max(1, len(flat) - 1), linewidth=1)
        axes.set_title(name, fontsize=9)
    return svg(made, alt)


def _standard(x: Array) -> tuple[Array, Array]:
    flat = x.reshape(len(x), -1).astype(np.float64)
    spread = flat.std(axis=0)
    return flat.mean(axis=0), np.where(spread > 0, spread, 1.0)
