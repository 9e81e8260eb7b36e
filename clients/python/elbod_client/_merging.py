"""Answers of consecutive rows as the answer of all of them."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np

from elbod_client._results import Array, FingerprintWarning, Posterior, Result, Samples, Scores, Summary

R = TypeVar("R", bound=Result)

# Parameters that all rows of an answer have in common.
SHARED: Final = frozenset({"scale_tril"})


def samples(parts: Sequence[Samples]) -> Samples:
    columns: dict[str, Any] = {name: _column(parts, name) for name in ("x", "z", "trajectory")}
    return replace(_origin(parts), **columns)


def posterior(parts: Sequence[Posterior]) -> Posterior:
    first = parts[0]
    parameters = {
        name: values if name in SHARED else _joined([part.parameters[name] for part in parts])
        for name, values in first.parameters.items()
    }
    columns: dict[str, Any] = {name: _column(parts, name) for name in ("z", "kl", "kl_per_dimension", "log_q")}
    return replace(_origin(parts), parameters=MappingProxyType(parameters), **columns)


def scores(parts: Sequence[Scores]) -> Scores:
    columns: dict[str, Any] = {
        field.name: _column(parts, field.name)
        for field in fields(Scores)
        if any(isinstance(getattr(part, field.name), np.ndarray) for part in parts)
    }
    return replace(_origin(parts), **columns, summary=_summary(parts))


def _summary(parts: Sequence[Scores]) -> Summary:
    """mean, sd(rows, ddof=1)/sqrt(n) and sqrt(sum se^2)/n over all n rows."""
    if len(parts) == 1:
        return parts[0].summary
    elbo = np.concatenate([part.elbo for part in parts])
    n = len(elbo)
    spread = float(elbo.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    errors = _column(parts, "standard_error")
    drawn = None if errors is None or np.isnan(errors).any() else float(np.sqrt(np.square(errors).sum())) / n
    return Summary(mean=float(elbo.mean()), standard_error=spread, monte_carlo_standard_error=drawn, n=n)


def _origin(parts: Sequence[R]) -> R:
    """The first part, as the origin of all."""
    prints = sorted({part.fingerprint for part in parts})
    if len(prints) > 1:
        warnings.warn(
            f"the parts of one answer come from servers of different fingerprints, whose last bits may differ: "
            f"{' and '.join(prints)}",
            FingerprintWarning,
            stacklevel=2,
        )
    reproducible = len(prints) == 1 and all(part.reproducible for part in parts)
    return replace(parts[0], reproducible=reproducible)


def _column(parts: Sequence[Any], name: str) -> Array | None:
    """A column that is undefined for all rows of a part is NaN there, if other parts define it."""
    columns = [getattr(part, name) for part in parts]
    defined = next((column for column in columns if column is not None), None)
    if defined is None:
        return None
    rest = defined.shape[1:]
    return _joined(
        [
            np.full((_rows(part), *rest), np.nan) if column is None else column
            for part, column in zip(parts, columns, strict=True)
        ]
    )


def _rows(part: Samples | Scores | Posterior) -> int:
    if isinstance(part, Samples):
        return len(part.x)
    if isinstance(part, Scores):
        return len(part.elbo)
    row_wise = [values for name, values in part.parameters.items() if name not in SHARED]
    return next(len(values) for values in (*row_wise, part.z, part.kl) if values is not None)


def _joined(arrays: Sequence[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    joined = np.concatenate(arrays)
    joined.flags.writeable = False
    return joined
