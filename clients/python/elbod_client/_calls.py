"""Requests as values: what to send, and how to read the answer. Nothing here knows who sends them."""

import operator
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, SupportsIndex, TypeVar

import httpx
from numpy.typing import ArrayLike

from elbod_client import _answers, _safetensors
from elbod_client._arrays import as_labels, as_wire
from elbod_client._results import Binarize, Include, Output, Posterior, PublishedModel, Samples, Scores

T = TypeVar("T")

# Every double holds such a seed exactly, so that it survives JSON in any language.
SEED_LIMIT: Final = 2**53


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request. `read` turns a 200 answer into the result, raising Malformed if it is not what was promised."""

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[httpx.Response], T]
    headers: Mapping[str, str]
    content: bytes | None = None


def sample(
    *,
    num_samples: SupportsIndex | None,
    seed: SupportsIndex | None,
    first_index: SupportsIndex,
    z: ArrayLike | None,
    x: ArrayLike | None,
    label: ArrayLike | None,
    temperature: float,
    output: Output,
    model: str | None,
) -> Call[Samples]:
    n = None if num_samples is None else _integer("num_samples", num_samples)
    fields = {
        **_common(seed, first_index, model),
        "num_samples": n,
        "temperature": float(temperature),
        "output": output,
    }
    return _verb("/sample", fields, {"z": z, "x": x}, label, _answers.samples, rows=n)


def encode(
    x: ArrayLike,
    *,
    label: ArrayLike | None,
    num_samples: SupportsIndex,
    seed: SupportsIndex | None,
    first_index: SupportsIndex,
    binarize: Binarize | None,
    model: str | None,
) -> Call[Posterior]:
    fields = {
        **_common(seed, first_index, model),
        "num_samples": _integer("num_samples", num_samples),
        "binarize": binarize,
    }
    return _verb("/encode", fields, {"x": x}, label, _answers.posterior)


def elbo(
    x: ArrayLike,
    *,
    label: ArrayLike | None,
    num_samples: SupportsIndex | None,
    num_importance_samples: SupportsIndex,
    target_standard_error: float | None,
    seed: SupportsIndex | None,
    first_index: SupportsIndex,
    binarize: Binarize | None,
    include: Sequence[Include],
    model: str | None,
) -> Call[Scores]:
    if isinstance(include, str):
        raise TypeError(f"include must be a sequence of names: write include=[{include!r}]")
    fields = {
        **_common(seed, first_index, model),
        "num_samples": None if num_samples is None else _integer("num_samples", num_samples),
        "target_standard_error": target_standard_error,
        "num_importance_samples": _integer("num_importance_samples", num_importance_samples),
        "binarize": binarize,
        "include": list(include),
    }
    return _verb("/elbo", fields, {"x": x}, label, _answers.scores)


def _get(path: str, read: Callable[[httpx.Response], T]) -> Call[T]:
    return Call("GET", path, read, {"Accept": "application/json"})


MODELS: Final[Call[tuple[PublishedModel, ...]]] = _get("/models", _answers.models)
VERSION: Final[Call[str]] = _get("/version", _answers.version)
READINESS: Final[Call[None]] = _get("/readyz", _answers.readiness)


def _common(seed: SupportsIndex | None, first_index: SupportsIndex, model: str | None) -> dict[str, object]:
    return {
        "model": model,
        "seed": secrets.randbelow(SEED_LIMIT) if seed is None else _integer("seed", seed),
        "first_index": _integer("first_index", first_index),
    }


def _integer(name: str, value: SupportsIndex) -> int:
    """A Python int of any integer, numpy's included; a float is never rounded. Raises TypeError."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} is a {type(value).__name__}: it must be an integer") from error


def _verb(
    path: str,
    fields: Mapping[str, object],
    arrays: Mapping[str, ArrayLike | None],
    label: ArrayLike | None,
    read: Callable[[httpx.Response], T],
    *,
    rows: int | None = None,
) -> Call[T]:
    """`rows`: how many there are where no array says it, if that is known."""
    # What is not given is not sent: an older server refuses fields that it does not know.
    given = {name: value for name, value in fields.items() if value is not None}
    tensors = {name: as_wire(name, value) for name, value in arrays.items() if value is not None}
    if label is not None:
        rows = next((len(tensor) for tensor in tensors.values() if tensor.ndim), rows)
        # First, since eight bytes a label leave the others aligned.
        tensors = {"label": as_labels(label, rows), **tensors}
    headers = {"Content-Type": _safetensors.MEDIA_TYPE, "Accept": _safetensors.MEDIA_TYPE}
    return Call("POST", path, read, headers, _safetensors.write(given, tensors))
