"""From a chunk's draws to one number a row: pure functions of arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elbod.engine.jobs import PILOT_DRAWS, Array, Job
from elbod.engine.loading import Resident
from elbod.engine.runner import PARAMETER, Outputs
from elbod.generators.base import Generator
from elbod.generators.bounds import (
    Elbo,
    Floats,
    LabelDraws,
    PriorTerms,
    bits_per_dim,
    elbo,
    importance_weighted,
    mean_over_labels,
    rank,
)

Counts = NDArray[np.int64]

# The pilot's variance is itself an estimate: a little more than it asks for.
_PILOT_MARGIN = 1.3


_CLOSED_KL = ("kl", "kl_per_dimension")


def encode_columns(chunk: Outputs, draws: int, *, described: bool) -> Outputs:
    """Parameters if they describe q, draws (n, S, d) and KL of a chunk.

    A KL without closed form is the mean of its draws, which then come with their log q(z|x), (n, S).
    """
    columns = {
        name: values
        for name, values in chunk.items()
        if (described and name.startswith(PARAMETER)) or name in _CLOSED_KL
    }
    if draws:
        columns["z"] = chunk["z"].reshape(-1, draws, chunk["z"].shape[-1])
        if "kl" not in chunk:
            per_draw = {name: values.reshape(-1, draws) for name, values in chunk.items() if name.endswith("_z")}
            columns["kl"] = _prior_terms(per_draw, draws).kl.mean(axis=1)
            columns["log_q"] = per_draw["log_q_z"]
    return columns


def needed_samples(chunk: Outputs, target: float, job: Job, resident: Resident) -> Counts:
    """S of each row for a standard error of `target`: max(64, 1.3 s0^2/target^2), at most `job.num_samples`.

    s0 is the standard deviation of r - k in the pilot's own draws. The draws that are averaged are fresh ones:
    stopping on those that are averaged would bias the bound up.
    """
    most = job.num_samples
    reconstruction, terms = _sampled(_chunk(chunk, PILOT_DRAWS, job, resident), PILOT_DRAWS)
    variance = (reconstruction - terms.kl).var(axis=1, ddof=1)
    # A row without a finite variance is refused when it is reduced, whatever it is drawn.
    wanted = np.ceil(np.nan_to_num(np.minimum(_PILOT_MARGIN * variance / target / target, most)))
    counts: Counts = np.minimum(np.maximum(wanted, PILOT_DRAWS), most).astype(np.int64)
    return counts


def elbo_columns(chunk: Outputs, samples: Counts | int, draws: Counts | int, job: Job, resident: Resident) -> Outputs:
    """The bound's columns of a chunk; row i has draws[i] contiguous draws, of which samples[i] make its ELBO.

    Under a marginal over C labels a row has C items, one after the other, of draws[i] each.
    """
    if isinstance(samples, int) or isinstance(draws, int):
        assert isinstance(samples, int)
        assert isinstance(draws, int)
        return _even_columns(chunk, samples, draws, job, resident)
    if (draws == draws[0]).all() and (samples == samples[0]).all():
        return _even_columns(chunk, int(samples[0]), int(draws[0]), job, resident)
    copies = job.copies
    ends = np.cumsum(draws * copies)
    rows = []
    for i, (end, count) in enumerate(zip(ends, draws, strict=True)):
        row = {
            name: values[end - count * copies : end] if name in _PER_DRAW else values[i * copies : (i + 1) * copies]
            for name, values in chunk.items()
        }
        rows.append(_even_columns(row, int(samples[i]), int(count), job, resident))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


# What a tile of the draw stage adds to a chunk, one entry a unit.
_PER_DRAW = ("reconstruction", "log_prior_z", "log_q_z", "kl_z", "expected_log_prior_z", "entropy_z", "z")


@dataclass(frozen=True)
class _Chunk:
    """Columns of n rows with equally many draws: `row` has (n, ...) a column and `draw` (n, draws).

    Under a marginal over C labels they have (n C, ...) and (n, C, draws), and `labels` knows how to average them.
    """

    row: Outputs
    draw: Outputs
    labels: LabelDraws | None

    @property
    def log_weights(self) -> Floats:
        """(n, draws)."""
        if self.labels is not None:
            return self.labels.marginal_log_weights()
        weights: Floats = self.draw["reconstruction"] + self.draw["log_prior_z"] - self.draw["log_q_z"]
        return weights


def _chunk(columns: Outputs, draws: int, job: Job, resident: Resident) -> _Chunk:
    shape = (job.marginal_labels, draws) if job.marginal_labels else (draws,)
    row = {name: values for name, values in columns.items() if name not in _PER_DRAW}
    draw = {name: columns[name].reshape(-1, *shape) for name in columns.keys() & set(_PER_DRAW) - {"z"}}
    labels = None
    if job.marginal_labels:
        log_prob = resident.generator.label_log_prob()
        assert log_prob is not None
        terms = (draw[name] for name in ("reconstruction", "log_prior_z", "log_q_z"))
        labels = LabelDraws(log_prob.cpu().numpy(), *terms)
    return _Chunk(row, draw, labels)


def _even_columns(outputs: Outputs, samples: int, draws: int, job: Job, resident: Resident) -> Outputs:
    likelihood = resident.generator.likelihood
    chunk = _chunk(outputs, draws, job, resident)
    bound = _bound(chunk, samples)
    columns: dict[str, Array] = {
        "elbo": bound.elbo,
        "standard_error": bound.standard_error,
        "reconstruction": bound.reconstruction,
        "kl": bound.kl,
        "log_joint": bound.log_joint,
        "entropy": bound.entropy,
    }
    if likelihood.measure == "pmf":
        columns["bits_per_dim"] = bits_per_dim(bound.elbo, likelihood.event_dims)
    if job.num_importance_samples:
        weighted = importance_weighted(chunk.log_weights[:, : job.num_importance_samples])
        columns |= {
            "iwae": weighted.iwae,
            "iwae_standard_error": weighted.iwae_standard_error,
            "effective_sample_size": weighted.effective_sample_size,
            "pareto_k": weighted.pareto_k,
            "gap": weighted.gap,
            "gap_standard_error": weighted.gap_standard_error,
        }
    if "log_evidence" in chunk.row:
        columns["log_evidence"] = chunk.row["log_evidence"]
        columns["gap"] = chunk.row["log_evidence"] - bound.elbo
        columns["gap_standard_error"] = bound.standard_error
    if (reference := resident.description.calibration_for(job)) is not None:
        same = reference.num_samples
        columns["quantile"], columns["typicality"] = rank(_bound(chunk, same).elbo, reference.scores)
    if job.target_standard_error is not None:
        columns["num_samples"] = np.full(len(bound.elbo), samples)
        columns["target_met"] = bound.standard_error <= job.target_standard_error
    if job.reconstruction_map:
        columns["reconstruction_map"] = _map(chunk, samples)
    return columns


def _map(chunk: _Chunk, samples: int) -> Array:
    """E_q[log p(x_i|z)] (n, *event_shape), under a marginal also the mean over p(y|x) of what each label gives."""
    found = chunk.row["reconstruction_map"]
    if chunk.labels is None:
        return chunk.row.get("expected_map", found)
    rho = chunk.labels.first(samples).posterior()
    return mean_over_labels(rho, found.reshape(*rho.shape, *found.shape[1:]))


def _bound(chunk: _Chunk, samples: int) -> Elbo:
    """The ELBO of the first draws; where nothing has to be drawn, its error is zero."""
    if chunk.labels is None and "expected_reconstruction" in chunk.row:
        exact = elbo(chunk.row["expected_reconstruction"][:, None], _prior_terms(chunk.row | chunk.draw, samples))
        return replace(exact, standard_error=np.zeros_like(exact.elbo))
    return elbo(*_sampled(chunk, samples))


def _sampled(chunk: _Chunk, samples: int) -> tuple[Floats, PriorTerms]:
    """log p(x|z_s) (n, S) of the first draws, and the terms beside it."""
    if chunk.labels is not None:
        return chunk.labels.first(samples).marginal()
    return chunk.draw["reconstruction"][:, :samples], _prior_terms(chunk.row | chunk.draw, samples)


def _prior_terms(chunk: Mapping[str, Array], samples: int) -> PriorTerms:
    """All closed-form, all closed-form given the drawn groups, or all sampled; of the first `samples` draws."""
    if "kl" in chunk:
        return PriorTerms(*(chunk[name][:, None] for name in ("kl", "log_prior", "entropy")))
    if "kl_z" in chunk:
        return PriorTerms(*(chunk[name][:, :samples] for name in ("kl_z", "expected_log_prior_z", "entropy_z")))
    log_prior, log_q = chunk["log_prior_z"][:, :samples], chunk["log_q_z"][:, :samples]
    return PriorTerms(kl=log_q - log_prior, log_prior=log_prior, entropy=-log_q)


def work_bytes(job: Job, generator: Generator, chunk: int) -> int:
    """Memory that a job holds while it is admitted: its inputs, its results, and one chunk of draws."""
    event_dims, latent_dim = generator.likelihood.event_dims, generator.latent_dim
    given = sum(array.nbytes for array in (job.x, job.z) if array is not None)
    drawn = job.rows * job.draws * latent_dim * 4 if job.verb == "encode" else 0
    mapped = (job.rows + min(job.rows * job.copies, chunk)) * event_dims * 8 if job.reconstruction_map else 0
    columns = job.rows * 512
    samples = job.rows * event_dims * 8 if job.verb == "sample" else 0
    return given + drawn + mapped + columns + samples + min(job.row_draws, chunk) * (latent_dim * 8 + 64)
