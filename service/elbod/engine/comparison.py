"""What a whole set of scored rows says: means with their errors, and paired differences between models."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from elbod.engine.jobs import Array
from elbod.engine.outliers import paired_auroc
from elbod.errors import InvalidInput
from elbod.generators.bounds import Floats, pareto_k_limit, summarize
from elbod.generators.comparability import difference
from elbod.generators.likelihoods import Likelihood, make_likelihood
from elbod_store import Manifest

Columns = Mapping[str, Array]

# A row whose typicality is below this is called atypical in the overview.
ATYPICAL = 0.05

# Scores by which altered rows may be told from their originals: the larger, the less like the data.
_OUTLIER_SCORES = {
    "-elbo": ("elbo", -1),
    "-reconstruction": ("reconstruction", -1),
    "kl": ("kl", 1),
    "-typicality": ("typicality", -1),
    "gap": ("gap", 1),
}


def overview(columns: Columns, likelihood: Likelihood, num_importance_samples: int) -> dict[str, Any]:
    """Means over rows in nats with their errors, plain JSON; what is undefined is None."""
    elbo = summarize(columns["elbo"], columns["standard_error"])
    found: dict[str, Any] = {
        "likelihood": likelihood.name,
        "measure": likelihood.measure,
        "units": "nats",
        "event_dims": likelihood.event_dims,
        "n": elbo.n,
        "elbo": elbo.mean,
        "standard_error": _finite(elbo.standard_error),
        "monte_carlo_standard_error": _finite(elbo.monte_carlo_standard_error),
        "reconstruction": float(columns["reconstruction"].mean()),
        "kl": float(columns["kl"].mean()),
        "bits_per_dim": _bits(elbo.mean, likelihood),
    }
    if "iwae" in columns:
        iwae = summarize(columns["iwae"], columns["iwae_standard_error"])
        pareto_k, limit = columns["pareto_k"], pareto_k_limit(num_importance_samples)
        found |= {
            "num_importance_samples": num_importance_samples,
            "iwae": iwae.mean,
            "iwae_standard_error": _finite(iwae.standard_error),
            "iwae_bits_per_dim": _bits(iwae.mean, likelihood),
            "median_effective_sample_size": float(np.median(columns["effective_sample_size"])),
            "share_over_pareto_k_limit": None if np.isnan(pareto_k).all() else float((pareto_k > limit).mean()),
        }
    if "log_evidence" in columns:
        exact = summarize(columns["log_evidence"], np.zeros_like(columns["log_evidence"]))
        found |= {"log_evidence": exact.mean, "log_evidence_standard_error": _finite(exact.standard_error)}
    if "typicality" in columns:
        found["share_atypical"] = float((columns["typicality"] < ATYPICAL).mean())
    return found


def likelihood_of(manifest: Manifest) -> Likelihood:
    """The likelihood of a version's rows."""
    return make_likelihood(manifest.likelihood, manifest.event_shape, manifest.levels)


def check_comparable(ours: Manifest, theirs: Manifest, *, given_labels: bool = False) -> None:
    """Raises InvalidInput where scores of the two are of different things."""
    if (found := difference(ours, theirs, given_labels=given_labels)) is not None:
        what, mine, other = found
        raise InvalidInput.at(
            "--against",
            f"{ours.name}@{ours.version} has {what} {mine}, {theirs.name}@{theirs.version} {other}: "
            "their scores may not be compared",
        )


def paired_difference(ours: Floats, theirs: Floats) -> dict[str, Any]:
    """mean(ours - theirs) over the same n rows, its standard error sd(difference)/sqrt(n), and who wins how often."""
    difference = ours - theirs
    n = len(difference)
    error = float(difference.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return {
        "mean": float(difference.mean()),
        "standard_error": _finite(error),
        "wins": int((difference > 0).sum()),
        "losses": int((difference < 0).sum()),
        "n": n,
    }


def outlier_report(columns: Columns, altered: Columns) -> dict[str, dict[str, Any]]:
    """By score: its area under the ROC at telling altered rows from their originals, with the standard error."""
    found = {}
    for name, (column, sign) in _OUTLIER_SCORES.items():
        if column in columns:
            area = paired_auroc(sign * columns[column], sign * altered[column])
            found[name] = {"auroc": area.value, "standard_error": _finite(area.standard_error)}
    return found


def _bits(nats: float, likelihood: Likelihood) -> float | None:
    return -nats / (likelihood.event_dims * math.log(2)) if likelihood.measure == "pmf" else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
