"""What callers get: the fields and arrays of a job's answer, before anybody writes them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from elbod.engine import columns
from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Array, Encodings, Job, Result, Samples, Scores
from elbod.generators.bounds import summarize
from elbod.requests.levels import evaluations

_SAMPLE = tuple(column.name for column in columns.SAMPLE)
_ELBO = tuple(column.name for column in columns.ELBO if column.single is None)


@dataclass(frozen=True, slots=True)
class Answer:
    """Fields, and arrays by the names of `engine.columns`: `posterior.mean` is `mean` of `posterior`; None is null."""

    fields: Mapping[str, Any]
    arrays: Mapping[str, Array | None]


def answer_of(job: Job, result: Result, model: ModelDescription) -> Answer:
    """What a job's result says, and where it comes from."""
    value = result.value
    fields: dict[str, Any] = {
        "model": model.identity,
        "seed": job.seed,
        "first_index": job.first_index,
        "fingerprint": model.fingerprint,
        "reproducible": model.reproducible,
    }
    if isinstance(value, Scores):
        return _scored(fields, job, value, model)
    if isinstance(value, Samples):
        return Answer(fields | _process(job, model), {name: getattr(value, name) for name in _SAMPLE})
    return _encoded(fields, job, value, model)


def _process(job: Job, model: ModelDescription) -> dict[str, Any]:
    """How samples of a model with levels were drawn. `scored`: /elbo bounds log p(x) of just this."""
    if model.levels is None:
        return {"process": None, "trajectory_levels": None}
    from_prior = job.output == "sample" and job.x is None and job.z is None
    process = {
        "sampler": job.sampler,
        "num_steps": job.num_steps or model.levels.count,
        "level": job.level,
        "guidance": job.guidance,
        "scored": from_prior and job.sampler == "ancestral" and not job.guidance,
    }
    return {"process": process, "trajectory_levels": list(job.trajectory) or None}


def _encoded(fields: dict[str, Any], job: Job, value: Encodings, model: ModelDescription) -> Answer:
    fields |= {"posterior.family": value.family, "posterior.closed_form": model.posterior_closed_form}
    fields |= {"level": None, "log_snr": None}
    if model.levels is not None:
        # Of all levels together q is a chain, of one a normal.
        fields |= {"posterior.family": "normal", "posterior.closed_form": True}
        fields |= {"level": job.level, "log_snr": float(model.levels.log_snr[job.level])}
    parameters = (*value.parameters.items(), *model.posterior_shared.items())
    arrays = {f"posterior.{name}": array for name, array in parameters}
    return Answer(fields, arrays | {column.name: getattr(value, column.name) for column in columns.ENCODE})


def _scored(fields: dict[str, Any], job: Job, scores: Scores, model: ModelDescription) -> Answer:
    found, likelihood = scores.columns, model.likelihood
    summary = summarize(found["elbo"], found["standard_error"])
    fields |= {
        "summary": {
            "mean": summary.mean,
            "standard_error": _defined(summary.standard_error),
            "monte_carlo_standard_error": _defined(summary.monte_carlo_standard_error),
            "n": summary.n,
        },
        "likelihood": likelihood.name,
        "measure": likelihood.measure,
        "units": "nats",
        "event_dims": likelihood.event_dims,
        "kl_estimator": _kl_estimator(job, model),
        "gap_kind": "exact" if "log_evidence" in found else "lower" if job.num_importance_samples else None,
        "conditional_on": None if job.label is None else "label",
        "marginal": _marginal(job, model),
        "num_importance_samples": job.num_importance_samples,
        **_calibration(job, model),
        **_passes(job, model),
    }
    arrays = {name: found.get(name) for name in _ELBO}
    arrays |= scores.maps
    for name in columns.MAY_BE_UNDEFINED:
        values = arrays[name]
        # Mostly the first number decides.
        if values is not None and math.isnan(values[0]) and (len(values) == 1 or np.isnan(values).all()):
            arrays[name] = None
    if job.target_standard_error is None:
        fields["num_samples"] = job.num_samples
    else:
        arrays["num_samples"] = found["num_samples"]
    return Answer(fields, arrays)


def _marginal(job: Job, model: ModelDescription) -> str | None:
    """How a conditional model scores rows without a label."""
    if job.label is not None or model.labels is None:
        return None
    return "labels" if job.marginal_labels else "null label"


def _kl_estimator(job: Job, model: ModelDescription) -> str:
    if job.num_levels is not None:
        return "conditional"
    return "monte_carlo" if job.marginal_labels else model.kl_estimator


def _passes(job: Job, model: ModelDescription) -> dict[str, Any]:
    """What a draw of a model with levels is, and how many evaluations of the network it takes."""
    if model.levels is None:
        return {"estimator": None, "num_steps": None, "passes": None}
    steps = job.num_steps or model.levels.count
    kind = "paths" if job.num_levels is None else "levels"
    estimator = {"kind": kind, "num_levels": job.num_levels}
    passes = job.copies * evaluations(model.levels.count, job.num_steps, job.num_levels)
    return {"estimator": estimator, "num_steps": steps, "passes": passes}


def _calibration(job: Job, model: ModelDescription) -> dict[str, Any]:
    """What quantile and typicality compare with, or why they are null."""
    used = model.calibration_for(job)
    if used is not None:
        return {"reference_num_samples": used.num_samples, "reference_size": len(used.scores), "reference_reason": None}
    stored = model.calibration if job.label is None else model.given_label
    if stored and model.has_null_label and job.marginal_labels:
        reason = "the model was calibrated with its null label"
    elif stored and job.binarize in (None, model.binarization):
        reason = "the model was calibrated with whole paths of all its levels"
    elif stored:
        reason = f"the model was calibrated with binarization {model.binarization}, not {job.binarize}"
    else:
        reason = "the model was published without calibration scores"
    return {"reference_num_samples": None, "reference_size": None, "reference_reason": reason}


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
