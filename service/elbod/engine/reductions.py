"""From the draws of complete chunks to one number a row: pure functions of arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elbod.engine.jobs import PILOT_DRAWS, Array, Job, Verb
from elbod.engine.loading import Resident
from elbod.engine.progress import Chunk, Counts, Progress
from elbod.engine.slots import Slots
from elbod.generators.bounds import (
    bits_per_dim,
    bound,
    importance_weighted,
    label_draws,
    log_weights,
    mean_over_labels,
    rank,
    sampled_bound,
)
from elbod.generators.terms import DrawTerms, RowTerms, Terms, mapped

Columns = dict[str, Array]

# The pilot's variance is itself an estimate: a little more than it asks for.
_PILOT_MARGIN = 1.3
# Chunks of more units than this gain nothing from being reduced together.
_REDUCED_TOGETHER = 256
# Columns whose numbers may be NaN: errors that a few draws do not give.
MAY_BE_UNDEFINED = {"standard_error", "iwae_standard_error", "pareto_k", "gap_standard_error"}


def reduced_together(complete: Sequence[Progress]) -> Iterator[list[Progress]]:
    """Groups of jobs whose chunks `reduce` takes at once: small ones of one kind, since a row's numbers do not know
    their neighbors, and a call of numpy costs about the same for one row and for many."""
    groups: dict[object, list[Progress]] = {}
    for progress in complete:
        chunk = progress.chunk
        assert chunk is not None
        small = chunk.map is None and isinstance(chunk.draws, int) and chunk.total <= _REDUCED_TOGETHER
        groups.setdefault(progress.kind if small else id(progress), []).append(progress)
    yield from groups.values()


def reduce(group: Sequence[Progress], slots: Slots) -> Columns:
    """The columns of the chunks of jobs of one kind, one after the other."""
    first, chunks = group[0], [_chunk(progress) for progress in group]
    numbers = chunks[0].slots if len(chunks) == 1 else np.concatenate([chunk.slots for chunk in chunks])
    drawn = _joined(chunks)
    job, resident = first.job, first.resident
    if job.verb is Verb.SAMPLE:
        x = drawn.sample if job.output == "sample" else drawn.mean
        return {"z": drawn.z, "x": x, "undefined": drawn.undefined}
    if job.verb is Verb.ENCODE:
        return _encode_columns(drawn, numbers, slots, job, resident)
    rows = slots.row_terms(numbers) if drawn.rows is None else drawn.rows
    return _elbo_columns(drawn, rows, chunks[0], job, resident)


def _chunk(progress: Progress) -> Chunk:
    assert progress.chunk is not None
    return progress.chunk


def _joined(chunks: Sequence[Chunk]) -> Any:
    """`Drawn` of all draws of the chunks, in order, with arrays; None without draws."""
    pieces = [piece for chunk in chunks for piece in chunk.pieces]
    if not pieces:
        return None
    arrays = iter(pieces[0] if len(pieces) == 1 else [np.concatenate(values) for values in zip(*pieces, strict=True)])
    drawn = mapped(lambda _: next(arrays), chunks[0].pieces_type)
    if chunks[0].path is None:
        return drawn
    path = mapped(lambda *parts: np.concatenate(parts), *[chunk.path for chunk in chunks])
    return replace(drawn, terms=DrawTerms(drawn.reconstruction, path))


def _encode_columns(drawn: Any, numbers: Counts, slots: Slots, job: Job, resident: Resident) -> Columns:
    """Parameters if they describe q, draws (n, S, d) and KL of a chunk.

    A KL without closed form is the mean of its draws, which then come with their log q(z|x), (n, S).
    """
    columns: Columns = {}
    parameters = slots.read_parameters(resident.row_shapes, numbers)
    if resident.description.posterior_closed_form:
        columns |= {f"posterior.{name}": values for name, values in parameters.items()}
    rows: RowTerms[NDArray[np.float64]] = slots.row_terms(numbers)
    if rows.latent is not None:
        columns["kl"] = rows.latent.kl
        if rows.latent.kl_per_dimension is not None:
            columns["kl_per_dimension"] = rows.latent.kl_per_dimension
    if job.draws:
        columns["z"] = drawn.z.reshape(-1, job.draws, drawn.z.shape[-1])
        if rows.latent is None:
            path = drawn.path
            terms = path.sampled if path.conditional is None else path.conditional
            columns["kl"] = terms.kl.reshape(-1, job.draws).mean(axis=1)
            columns["log_q"] = path.sampled.log_q.reshape(-1, job.draws)
    return columns


def needed_samples(progress: Progress, slots: Slots) -> Counts:
    """S of each row for a standard error of the job's target: max(64, 1.3 s0^2/target^2), at most `num_samples`.

    s0 is the standard deviation of r - k in the pilot's own draws. The draws that are averaged are fresh ones:
    stopping on those that are averaged would bias the bound up.
    """
    job, chunk = progress.job, _chunk(progress)
    assert job.target_standard_error is not None
    drawn, rows = _joined([chunk]), slots.row_terms(chunk.slots)
    terms = _terms(drawn.terms, rows, PILOT_DRAWS, job, progress.resident)
    reconstruction, latent = sampled_bound(terms, PILOT_DRAWS)
    variance = (reconstruction - latent.kl).var(axis=1, ddof=1)
    # A row without a finite variance is refused when it is reduced, whatever it is drawn.
    ratio = variance / job.target_standard_error / job.target_standard_error
    wanted = np.ceil(np.nan_to_num(np.minimum(_PILOT_MARGIN * ratio, job.num_samples)))
    counts: Counts = np.minimum(np.maximum(wanted, PILOT_DRAWS), job.num_samples).astype(np.int64)
    return counts


def _elbo_columns(drawn: Any, rows: Any, chunk: Chunk, job: Job, resident: Resident) -> Columns:
    """The bound's columns; row i has contiguous draws, of which the first samples[i] make its ELBO."""
    draws, samples = chunk.draws, chunk.samples
    mapped_rows = (
        None
        if chunk.map is None
        else chunk.map
        / np.repeat(samples, len(chunk.map) if isinstance(samples, int) else job.copies).reshape(
            -1, *[1] * (chunk.map.ndim - 1)
        )
    )
    if isinstance(draws, int) or ((draws == draws[0]).all() and (samples == np.asarray(samples)[0]).all()):
        even = _Even(_first(samples), _first(draws), job, resident)
        return even.columns(drawn.terms, rows, mapped_rows)
    assert chunk.ends is not None
    assert not isinstance(samples, int)
    found, copies, begin = [], job.copies, 0
    for row, end in enumerate(chunk.ends[copies - 1 :: copies]):
        of_row = slice(row * copies, (row + 1) * copies)
        even = _Even(int(samples[row]), int(draws[of_row.start]), job, resident)
        terms = mapped(lambda values, at=slice(begin, end): values[at], drawn.terms)
        one = mapped(lambda values, at=of_row: values[at], rows)
        found.append(even.columns(terms, one, None if mapped_rows is None else mapped_rows[of_row]))
        begin = end
    return {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}


def _first(counts: int | Counts) -> int:
    return counts if isinstance(counts, int) else int(counts[0])


def _terms(draws: Any, rows: Any, count: int, job: Job, resident: Resident) -> Terms:
    """Terms of rows with `count` draws each."""
    if not job.marginal_labels:
        return Terms(rows, mapped(lambda values: values.reshape(-1, count), draws))
    log_prob = resident.generator.label_log_prob()
    assert log_prob is not None
    by_label = mapped(lambda values: values.reshape(-1, job.marginal_labels, count), draws)
    return Terms(rows, by_label, log_prob.cpu().numpy())


@dataclass(frozen=True)
class _Even:
    """Rows with equally many draws each."""

    samples: int
    draws: int
    job: Job
    resident: Resident

    def columns(self, draws: Any, rows: Any, elements: Array | None) -> Columns:
        job, likelihood = self.job, self.resident.generator.likelihood
        terms = _terms(draws, rows, self.draws, job, self.resident)
        found = bound(terms, self.samples)
        columns: Columns = dict(vars(found))
        if likelihood.measure == "pmf":
            columns["bits_per_dim"] = bits_per_dim(found.elbo, likelihood.event_dims)
        if job.num_importance_samples:
            columns |= vars(importance_weighted(log_weights(terms, job.num_importance_samples)))
        evidence = None if job.marginal_labels else terms.rows.log_evidence
        if evidence is not None:
            columns["log_evidence"] = evidence
            columns["gap"] = evidence - found.elbo
            columns["gap_standard_error"] = found.standard_error
        if (reference := self.resident.description.calibration_for(job)) is not None:
            compared = found if reference.num_samples == self.samples else bound(terms, reference.num_samples)
            columns["quantile"], columns["typicality"] = rank(compared.elbo, reference.scores)
        if job.target_standard_error is not None:
            columns["num_samples"] = np.full(len(found.elbo), self.samples)
            columns["target_met"] = found.standard_error <= job.target_standard_error
        if elements is not None:
            columns["reconstruction_map"] = self._map(terms, elements)
        return columns

    def _map(self, terms: Terms, elements: Array) -> Array:
        """E_q[log p(x_i|z)] (n, *event_shape), under a marginal the mean over p(y|x) of what each label gives."""
        if terms.label_log_prob is not None:
            rho = label_draws(terms, self.samples).posterior()
            return mean_over_labels(rho, elements.reshape(*rho.shape, *elements.shape[1:]))
        expected = terms.rows.expected_elements
        return elements if expected is None else expected


def finite_rows(name: str, values: Array) -> NDArray[np.bool_]:
    """Which rows of a column have all the numbers that they must have."""
    if name == "undefined":
        return ~values
    if values.dtype.kind != "f":
        return np.ones(len(values), np.bool_)
    fine: Array = ~np.isinf(values) if name in MAY_BE_UNDEFINED else np.isfinite(values)
    if fine.ndim > 1:
        fine = np.logical_and.reduce(fine.reshape(len(fine), -1), axis=1)
    return fine
