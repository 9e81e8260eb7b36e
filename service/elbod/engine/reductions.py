"""From the draws of complete chunks to one number a row: pure functions of arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbod.engine.jobs import PILOT_DRAWS, Array, Floats, Job, Verb
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
from elbod.generators.chained import Chained
from elbod.generators.terms import Conditional, DrawTerms, PathTerms, RowTerms, Sampled, Terms, mapped

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
        few = isinstance(chunk.draws, int) and chunk.total <= _REDUCED_TOGETHER
        small = few and not chunk.maps and chunk.profile is None
        groups.setdefault(progress.kind if small else id(progress), []).append(progress)
    yield from groups.values()


def reduce(group: Sequence[Progress], slots: Slots) -> Columns:
    """The columns of the chunks of jobs of one kind, one after the other."""
    first, chunks = group[0], [_chunk(progress) for progress in group]
    numbers = chunks[0].slots if len(chunks) == 1 else np.concatenate([chunk.slots for chunk in chunks])
    job, resident = first.job, first.resident
    drawn = _joined(chunks, resident)
    if job.verb is Verb.SAMPLE:
        return _sample_columns(drawn, chunks, job)
    if job.verb is Verb.ENCODE and resident.levels:
        parameters = slots.parameters(resident.row_shapes, numbers)
        return _encode_columns_at_level(_latents(chunks), parameters, job, resident)
    if job.verb is Verb.ENCODE:
        return _encode_columns(drawn, numbers, slots, job, resident)
    rows = slots.row_terms(numbers) if drawn.rows is None else drawn.rows
    return _elbo_columns(drawn, rows, chunks[0], job, resident)


def _chunk(progress: Progress) -> Chunk:
    assert progress.chunk is not None
    return progress.chunk


def _joined(chunks: Sequence[Chunk], resident: Resident) -> Any:
    """`Drawn` of all draws of the chunks, in order, with arrays; None without draws."""
    pieces = [piece for chunk in chunks for piece in chunk.pieces]
    if not pieces:
        return None
    arrays = iter(pieces[0] if len(pieces) == 1 else [np.concatenate(values) for values in zip(*pieces, strict=True)])
    drawn = mapped(lambda _: next(arrays), chunks[0].pieces_type)
    if drawn.reconstruction is None:
        return drawn
    path = mapped(lambda *parts: np.concatenate(parts), *[chunk.path for chunk in chunks])
    if chunks[0].visits is not None:
        path = _of_sampled_levels(path.conditional.kl, resident)
    return replace(drawn, terms=DrawTerms(drawn.reconstruction, path))


def _of_sampled_levels(kl: Floats, resident: Resident) -> PathTerms[Floats]:
    """Terms of draws that visited sampled levels: their KL is known given each level, H[q] is that of the chain."""
    assert resident.description.levels is not None
    entropy = np.full(len(kl), resident.description.levels.entropy)
    return PathTerms(Sampled(-kl - entropy, -entropy), Conditional(kl, -kl - entropy, entropy))


def _sample_columns(drawn: Any, chunks: Sequence[Chunk], job: Job) -> Columns:
    columns = {"x": drawn.sample if job.output == "sample" else drawn.mean, "undefined": drawn.undefined}
    latents = _latents(chunks)
    columns["z"] = drawn.z if latents is None else latents
    if job.trajectory:
        shown = ([values for values in chunk.shown if values is not None] for chunk in chunks)
        columns["trajectory"] = np.concatenate([np.stack(values, axis=1) for values in shown])
    return columns


def _latents(chunks: Sequence[Chunk]) -> Array | None:
    """Latents that were kept on the way of draws."""
    kept = [chunk.latents for chunk in chunks if chunk.latents is not None]
    return np.concatenate(kept) if kept else None


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


@torch.inference_mode()
def _encode_columns_at_level(
    latents: Array | None, parameters: Mapping[str, Tensor], job: Job, resident: Resident
) -> Columns:
    """q(z_level|x) of rows, and draws of it. KL(q || p) is known at the last level alone."""
    generator = resident.generator
    assert isinstance(generator, Chained)
    q = generator.posterior(parameters)
    some = next(iter(parameters.values()))
    at_level = generator.marginal(q, torch.full((len(some),), job.level, device=some.device))
    columns: Columns = {f"posterior.{name}": value.cpu().numpy() for name, value in at_level.parameters.items()}
    if job.level == resident.levels:
        columns["kl"] = generator.first_kl(q).cpu().numpy()
    if latents is not None:
        columns["z"] = latents.reshape(-1, job.draws, latents.shape[-1])
    return columns


def needed_samples(progress: Progress, slots: Slots) -> Counts:
    """S of each row for a standard error of the job's target: max(64, 1.3 s0^2/target^2), at most `num_samples`.

    s0 is the standard deviation of r - k in the pilot's own draws. The draws that are averaged are fresh ones:
    stopping on those that are averaged would bias the bound up.
    """
    job, chunk = progress.job, _chunk(progress)
    assert job.target_standard_error is not None
    drawn, rows = _joined([chunk], progress.resident), slots.row_terms(chunk.slots)
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
    profile, maps = chunk.profile, dict[str, Array]()
    for name, total in chunk.maps.items():
        counts = np.repeat(samples, len(total) if isinstance(samples, int) else job.copies)
        maps[name] = total / counts.reshape(-1, *[1] * (total.ndim - 1))
    if isinstance(draws, int) or ((draws == draws[0]).all() and (samples == np.asarray(samples)[0]).all()):
        even = _Even(_first(samples), _first(draws), job, resident)
        return even.columns(drawn.terms, rows, maps, profile)
    assert chunk.ends is not None
    assert not isinstance(samples, int)
    found, copies, begin = [], job.copies, 0
    for row, end in enumerate(chunk.ends[copies - 1 :: copies]):
        of_row = slice(row * copies, (row + 1) * copies)
        even = _Even(int(samples[row]), int(draws[of_row.start]), job, resident)
        terms = mapped(lambda values, at=slice(begin, end): values[at], drawn.terms)
        one = mapped(lambda values, at=of_row: values[at], rows)
        own = {name: total[of_row] for name, total in maps.items()}
        found.append(even.columns(terms, one, own, None if profile is None else profile[begin:end]))
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

    def columns(self, draws: Any, rows: Any, maps: Mapping[str, Array], profile: Array | None) -> Columns:
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
        for name, elements in maps.items():
            columns[name] = self._map(terms, elements)
        if profile is not None:
            passes = profile.reshape(-1, self.draws, profile.shape[1])[:, : self.samples]
            # The last pass makes level 0.
            columns["kl_per_level"] = passes.mean(axis=1)[:, ::-1]
        return columns

    def _map(self, terms: Terms, elements: Array) -> Array:
        """Each element's share (n, *event_shape), under a marginal the mean over p(y|x) of what each label gives."""
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
