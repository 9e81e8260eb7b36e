"""The three verbs: checked arguments to a plan of requests."""

import operator
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, SupportsIndex

from elbod_client import _answers, _merging
from elbod_client._arrays import Rows, as_labels, as_rows
from elbod_client._plans import Array, Plan, equal_rows, nbytes_of_map, rows_of
from elbod_client._results import Binarize, Include, Marginal, Output, Posterior, Sampler, Samples, Scores, Show

# Every double holds such a seed exactly, so that it survives JSON in any language.
SEED_LIMIT: Final = 2**53
# Bytes of a row's answer beside its arrays: columns of float64.
_COLUMNS: Final = 200
# Levels of a trajectory unless asked otherwise.
_SHOWN: Final = 8


def sample(
    *,
    num_samples: SupportsIndex | None,
    seed: SupportsIndex | None,
    first_index: SupportsIndex,
    z: Rows | None,
    x: Rows | None,
    label: Rows | None,
    temperature: float,
    output: Output,
    num_steps: SupportsIndex | None,
    level: SupportsIndex | None,
    sampler: Sampler | None,
    guidance: float | None,
    include: Sequence[Show],
    trajectory_steps: SupportsIndex | None,
    model: str | None,
) -> Plan[Samples]:
    n = None if num_samples is None else integer("num_samples", num_samples)
    given = {name: as_rows(name, value) for name, value in (("z", z), ("x", x)) if value is not None}
    arrays = _labelled(given, label, n)
    rows = rows_of(arrays) if n is None else n
    steps, shown = _optional("num_steps", num_steps), _optional("trajectory_steps", trajectory_steps)
    fields = {
        "seed": drawn(seed),
        "temperature": float(temperature),
        "output": output,
        "num_steps": steps,
        "level": _optional("level", level),
        "sampler": sampler,
        "guidance": guidance,
        # A server that knows of no trajectories would refuse the field.
        "include": _names(include) or None,
        "trajectory_steps": shown,
    }
    return Plan(
        path="/sample",
        model=model,
        first_index=integer("first_index", first_index),
        rows=1 if rows is None else rows,
        fields=fields,
        arrays=arrays,
        read=_answers.samples,
        merge=_merging.samples,
        count=None if n is None else "num_samples",
        # Guided passes run the network twice.
        draws=_passes(steps) * (2 if guidance else 1),
        # In float32: of draws from the prior nothing tells the size of a row.
        row_bytes=nbytes_of_map(arrays["x"]) // 2 * (shown or _SHOWN) if include and "x" in arrays else 0,
        divisible=(n is None or not given) and equal_rows(arrays),
    )


def encode(
    x: Rows,
    *,
    label: Rows | None,
    num_samples: SupportsIndex,
    seed: SupportsIndex | None,
    first_index: SupportsIndex,
    binarize: Binarize | None,
    num_steps: SupportsIndex | None,
    level: SupportsIndex | None,
    model: str | None,
) -> Plan[Posterior]:
    draws, steps = integer("num_samples", num_samples), _optional("num_steps", num_steps)
    fields = {
        "seed": drawn(seed),
        "num_samples": draws,
        "binarize": binarize,
        "num_steps": steps,
        "level": _optional("level", level),
    }
    arrays = _labelled({"x": as_rows("x", x)}, label, None)
    return Plan(
        path="/encode",
        model=model,
        first_index=integer("first_index", first_index),
        rows=_rows(arrays),
        fields=fields,
        arrays=arrays,
        read=_answers.posterior,
        merge=_merging.posterior,
        draws=draws,
        divisible=equal_rows(arrays),
    )


def elbo(
    x: Rows,
    *,
    label: Rows | None,
    num_samples: SupportsIndex | None,
    num_importance_samples: SupportsIndex,
    target_standard_error: float | None,
    seed: SupportsIndex | None,
    first_index: SupportsIndex,
    binarize: Binarize | None,
    num_steps: SupportsIndex | None,
    num_levels: SupportsIndex | None,
    marginal: Marginal | None,
    include: Sequence[Include],
    model: str | None,
) -> Plan[Scores]:
    included = _names(include)
    samples = None if num_samples is None else integer("num_samples", num_samples)
    importance = integer("num_importance_samples", num_importance_samples)
    steps, visited = _optional("num_steps", num_steps), _optional("num_levels", num_levels)
    arrays = _labelled({"x": as_rows("x", x)}, label, None)
    fields = {
        "seed": drawn(seed),
        "num_samples": samples,
        "target_standard_error": target_standard_error,
        "num_importance_samples": importance,
        "binarize": binarize,
        "num_steps": steps,
        "num_levels": visited,
        "marginal": marginal,
        "include": included,
    }
    mapped = nbytes_of_map(arrays["x"]) * len({"reconstruction_map", "bound_map"} & set(included))
    # A target may ask for many.
    draws = max(samples or 1, importance, 1 if target_standard_error is None else 256)
    return Plan(
        path="/elbo",
        model=model,
        first_index=integer("first_index", first_index),
        rows=_rows(arrays),
        fields=fields,
        arrays=arrays,
        read=_answers.scores,
        merge=_merging.scores,
        draws=draws * _passes(visited or steps),
        row_bytes=_COLUMNS + mapped,
        divisible=equal_rows(arrays),
    )


def drawn(seed: SupportsIndex | None) -> int:
    """The seed, or one at random."""
    return secrets.randbelow(SEED_LIMIT) if seed is None else integer("seed", seed)


def integer(name: str, value: SupportsIndex) -> int:
    """A Python int of any integer, numpy's included; a float is never rounded. Raises TypeError."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} is a {type(value).__name__}: it must be an integer") from error


def _optional(name: str, value: SupportsIndex | None) -> int | None:
    return None if value is None else integer(name, value)


def _names(include: Sequence[str]) -> list[str]:
    if isinstance(include, str):
        raise TypeError(f"include must be a sequence of names: write include=[{include!r}]")
    return list(include)


def _passes(levels: int | None) -> int:
    """Network passes of a draw, as far as they are known: only the server knows how many levels a model has."""
    return 1 if levels is None else 1 + levels


def _labelled(arrays: Mapping[str, Array], label: Rows | None, rows: int | None) -> dict[str, Array]:
    if label is None:
        return dict(arrays)
    known = rows_of(arrays)
    # First, since eight bytes a label leave the others aligned.
    return {"label": as_labels(label, rows if known is None else known), **arrays}


def _rows(arrays: Mapping[str, Array]) -> int:
    rows = rows_of(arrays)
    return 1 if rows is None else rows
