"""The held-out numbers of a version, from test rows, which neither trained it nor stopped its training."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from elbod.generators import bounds
from elbod.generators.base import Generator
from elbod.generators.bounds import Elbo, Floats, ImportanceWeighted, Summary
from elbod.generators.likelihoods import Likelihood
from elbod.training.scoring import Scores


def held_out_metrics(
    scores: Scores,
    baseline: Floats,
    generator: Generator,
    seed: int,
    num_samples: int,
    num_importance_samples: int,
    given_label: Scores | None = None,
) -> dict[str, Any]:
    """Plain JSON: means over test rows in nats with their errors; None for what is undefined.

    `standard_error` is the spread of rows, noise within them included; `monte_carlo_standard_error` that noise alone.
    All bound log p(x); those of a conditional model given the rows' labels, log p(x|y), stand under `given_label`.
    """
    elbo: Elbo = scores.elbo
    likelihood = generator.likelihood
    held_out = bounds.summarize(elbo.elbo, elbo.standard_error)
    metrics: dict[str, Any] = {
        "units": "nats",
        "measure": likelihood.measure,
        "event_dims": likelihood.event_dims,
        "n": held_out.n,
        "seed": seed,
        "num_samples": num_samples,
        **_named("elbo", held_out),
        "reconstruction": float(elbo.reconstruction.mean()),
        "kl": float(elbo.kl.mean()),
        "kl_estimator": "monte_carlo" if given_label is not None else generator.kl_estimator,
        "log_joint": float(elbo.log_joint.mean()),
        "entropy": float(elbo.entropy.mean()),
        **_bits("bits_per_dim", held_out, likelihood),
        "kl_per_dimension": None,
    }
    informative = scores if given_label is None else given_label
    if informative.kl_per_dimension is not None:
        metrics["kl_per_dimension"] = [float(value) for value in informative.kl_per_dimension.mean(0)]
    if scores.importance is not None:
        metrics["num_importance_samples"] = num_importance_samples
        metrics |= _weighted(scores.importance, likelihood)
    if given_label is not None:
        conditional = bounds.summarize(given_label.elbo.elbo, given_label.elbo.standard_error)
        metrics["given_label"] = _named("elbo", conditional) | _bits("bits_per_dim", conditional, likelihood)
        if given_label.importance is not None:
            metrics["given_label"] |= _weighted(given_label.importance, likelihood)
    if scores.log_evidence is not None:
        exact = bounds.summarize(scores.log_evidence, np.zeros_like(scores.log_evidence))
        metrics |= _named("log_evidence", exact) | _bits("log_evidence_bits_per_dim", exact, likelihood)
    independent = bounds.summarize(baseline, np.zeros_like(baseline))
    metrics["baseline"] = {
        "model": "independent elements",
        **_named("log_prob", independent),
        **_bits("bits_per_dim", independent, likelihood),
    }
    return metrics


def _weighted(found: ImportanceWeighted, likelihood: Likelihood) -> dict[str, float | None]:
    weighted = bounds.summarize(found.iwae, found.iwae_standard_error)
    return _named("iwae", weighted) | _bits("iwae_bits_per_dim", weighted, likelihood)


def headline(metrics: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """(what, nats, bits per dimension or None) of the bounds and the baseline, for people to read."""
    baseline = metrics["baseline"]
    found = [("ELBO", metrics, "elbo", "", "bits_per_dim")]
    if "iwae" in metrics:
        title = f"IWAE, K = {metrics['num_importance_samples']}"
        found.append((title, metrics, "iwae", "iwae_", "iwae_bits_per_dim"))
    if "given_label" in metrics:
        found.append(("ELBO given label", metrics["given_label"], "elbo", "", "bits_per_dim"))
    if "log_evidence" in metrics:
        found.append(("exact log p(x)", metrics, "log_evidence", "log_evidence_", "log_evidence_bits_per_dim"))
    found.append(("baseline", baseline, "log_prob", "", "bits_per_dim"))
    return [
        (
            title,
            f"{source[key]:.2f} ± {source[f'{prefix}standard_error']:.2f}",
            None if source[bits] is None else f"{source[bits]:.4f} ± {source[f'{bits}_standard_error']:.4f}",
        )
        for title, source, key, prefix, bits in found
    ]


def _named(name: str, summary: Summary) -> dict[str, float | None]:
    prefix = "" if name in {"elbo", "log_prob"} else f"{name}_"
    return {
        name: summary.mean,
        f"{prefix}standard_error": _finite(summary.standard_error),
        f"{prefix}monte_carlo_standard_error": _finite(summary.monte_carlo_standard_error),
    }


def _bits(name: str, summary: Summary, likelihood: Likelihood) -> dict[str, float | None]:
    if likelihood.measure != "pmf":
        return {name: None, f"{name}_standard_error": None}
    error = _finite(summary.standard_error)
    unit = likelihood.event_dims * math.log(2)
    return {name: -summary.mean / unit, f"{name}_standard_error": None if error is None else error / unit}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
