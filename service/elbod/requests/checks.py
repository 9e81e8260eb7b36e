"""Values of a request checked on its arrays, before anything is queued: shape, finiteness, support, limits."""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Array, Binarize
from elbod.errors import InvalidInput
from elbod.generators.likelihoods import Likelihood
from elbod.requests.blocks import Pause, no_pause

# Numbers that are checked at once.
_CHECKED = 1024**2

# No |z| of a latent is larger: a draw of a standard normal stays below 7, no prior or q(z|x) has mass out here, and the
# number of a component is smaller. Beyond, what float32 networks compute means nothing, long before it overflows.
MAX_LATENT = 1e6


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The most that one request may ask for."""

    max_rows: int
    max_num_samples: int
    max_importance_samples: int


# Commands, bulk jobs and reports have none.
UNLIMITED = RequestLimits(sys.maxsize, sys.maxsize, sys.maxsize)


def check_rows(
    model: ModelDescription, x: Array | None, *, binarize: Binarize | None, max_rows: int, pause: Pause = no_pause
) -> Array:
    """x as (n, *event_shape), finite and in the support, 1 <= n <= max_rows. Raises InvalidInput.

    Grey images may have their one channel as an axis or not, whichever the model was trained with.
    """
    if x is None:
        raise InvalidInput.at("/x", "x is missing: the rows to work on, in data units")
    likelihood = model.likelihood
    x = _of_channels(x, model.event_shape)
    _check_shape("x", x, model.event_shape, model, max_rows)
    if binarize is not None and likelihood.name != "bernoulli":
        why = f"{_of(model)} has a {likelihood.name} likelihood: binarize is for bernoulli"
        raise InvalidInput.at("/binarize", why)
    step = max(1, _CHECKED * len(x) // x.size)
    for first in range(0, len(x), step):
        _check_values(x[first : first + step], first, model, binarize)
        pause()
    return x


def _check_values(x: Array, first: int, model: ModelDescription, binarize: Binarize | None) -> None:
    """Rows from number `first` on."""
    likelihood = model.likelihood
    if binarize is None and _are_levels(x, likelihood):
        return
    _check_finite("x", x, first)
    if binarize is not None:
        rule = f"binarize needs values in [0, 1] for {_of(model)}: divide grey levels by 255"
        _check_all(x, first, (x >= 0) & (x <= 1), rule)
    else:
        supported = likelihood.supports(torch.from_numpy(x)).numpy()
        rule = f"{_of(model)} has a {likelihood.name} likelihood over {likelihood.support}"
        if likelihood.name == "bernoulli":
            rule += f': pass binarize="stochastic" or publish an n-level {_of(model)}'
        _check_all(x, first, supported, rule)


def _are_levels(x: Array, likelihood: Likelihood) -> bool:
    """Whether x are the numbers 0 ... levels-1 of a discrete likelihood: what most are, seen without a mask of all."""
    if likelihood.measure != "pmf" or likelihood.levels is None:
        return False
    # The least and the greatest of numbers with a NaN are NaN.
    within = x.min() >= 0 and x.max() < likelihood.levels
    return bool(within and (x.dtype.kind != "f" or (x == np.trunc(x)).all()))


def check_latents(model: ModelDescription, z: Array, *, max_rows: int) -> NDArray[np.float32]:
    """z as (n, latent_dim) float32, at most MAX_LATENT in size. Raises InvalidInput."""
    _check_shape("z", z, (model.latent_dim,), model, max_rows)
    _check_finite("z", z)
    far = (z > MAX_LATENT) | (z < -MAX_LATENT)
    if far.any():
        (row, *_), value = _first(z, far)
        message = f"z[{row}] has value {value}; latents lie within -{MAX_LATENT:g} ... {MAX_LATENT:g}"
        raise InvalidInput.at(f"/z/{row}", message)
    latents = z.astype(np.float32)
    if (levels := model.latent_levels) is not None:
        wrong = ((latents != np.round(latents)) | (latents < 0) | (latents >= levels)).any(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            why = f"z[{row}] is {latents[row].tolist()}: no latent of family {model.family!r}"
            raise InvalidInput.at(f"/z/{row}", why)
    return latents


def check_labels(
    model: ModelDescription, label: Array | None, rows: int, *, required: bool
) -> NDArray[np.int64] | None:
    """Class numbers (rows,) from one for all rows or one a row; None where none are given. Raises InvalidInput.

    A model with a null label never requires them.
    """
    names = model.labels
    if names is None:
        if label is not None:
            raise InvalidInput.at("/label", f"{_of(model)} is not conditional: it takes no label")
        return None
    if label is None and (model.has_null_label or not required):
        return None
    listed = f"{', '.join(names[:20])}{', ...' if names[20:] else ''}"
    known = f"{_of(model)} has the classes 0 ... {len(names) - 1} ({listed})"
    if label is None:
        raise InvalidInput.at("/label", f"label is missing: {known}; give one for all rows or one a row")
    if label.dtype.kind not in "iu":
        raise InvalidInput.at("/label", f"label must be integers, not {label.dtype}: {known}")
    if label.shape not in ((), (rows,)):
        raise InvalidInput.at("/label", f"label has shape {list(label.shape)}: one for all or ({rows},) is wanted")
    labels = np.broadcast_to(label, (rows,)).astype(np.int64)
    wrong = (labels < 0) | (labels >= len(names))
    if wrong.any():
        row = int(np.argmax(wrong))
        place = f"label[{row}]" if label.ndim else "label"
        raise InvalidInput.at(f"/label/{row}" if label.ndim else "/label", f"{place} is {labels[row]}; {known}")
    return labels


def marginal_labels(marginal: str | None, label: Array | None, model: ModelDescription) -> int:
    """The number of labels that a score sums over; 0 for none.

    Raises InvalidInput where `marginal` contradicts the model or the label.
    """
    if marginal is not None and model.labels is None:
        raise InvalidInput.at("/marginal", f"{_of(model)} is not conditional: there are no labels to sum over")
    if marginal is not None and label is not None:
        raise InvalidInput.at("/marginal", "label says which p(x|y) is scored: give one of label and marginal")
    if marginal == "null label" and not model.has_null_label:
        raise InvalidInput.at("/marginal", f"{_of(model)} has no null label: rows are scored by the sum over labels")
    by_sum = marginal == "labels" or not model.has_null_label
    return len(model.labels or ()) if label is None and by_sum else 0


def check_count(name: str, value: int, limit: int) -> None:
    """A count against its limit. Raises InvalidInput."""
    if value > limit:
        raise InvalidInput.at(f"/{name}", f"{name} is {value}, the limit is {limit}")


def _of(model: ModelDescription) -> str:
    return f"model {model.name!r}"


def _of_channels(x: Array, shape: tuple[int, ...]) -> Array:
    if len(shape) == 3 and x.shape[1:] == shape[1:] and shape[0] == 1:
        return x[:, None]
    if len(shape) == 2 and x.shape[1:] == (1, *shape):
        return x[:, 0]
    return x


def _check_shape(name: str, array: Array, shape: tuple[int, ...], model: ModelDescription, max_rows: int) -> None:
    if array.shape[1:] != shape or array.ndim != len(shape) + 1:
        expected = ", ".join(map(str, ("n", *shape)))
        raise InvalidInput.at(f"/{name}", f"{name} has shape {list(array.shape)}, {_of(model)} needs ({expected})")
    if len(array) == 0:
        raise InvalidInput.at(f"/{name}", f"{name} has no rows")
    if len(array) > max_rows:
        raise InvalidInput.at(f"/{name}", f"{name} has {len(array)} rows, the limit is {max_rows}: split the request")


def _check_finite(name: str, array: Array, first: int = 0) -> None:
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            place, value = _first(array, ~finite)
            row = first + place[0]
            raise InvalidInput.at(f"/{name}/{row}", f"{name}[{row}] has value {value}, must be finite")


def _check_all(x: Array, first: int, valid: NDArray[np.bool_], rule: str) -> None:
    if not valid.all():
        (row, *rest), value = _first(x, ~valid)
        pointer = "/".join(map(str, ("/x", first + row, *rest)))
        raise InvalidInput.at(pointer, f"x[{first + row}] has value {value}; {rule}")


def _first(array: Array, where: NDArray[np.bool_]) -> tuple[tuple[int, ...], str]:
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), array.shape))
    value = array[place].item()
    # An integral float reads better as the integer that it is, unless it has hundreds of digits.
    integral = isinstance(value, float) and value.is_integer() and abs(value) < 1e16
    return place, str(int(value)) if integral else repr(value)
