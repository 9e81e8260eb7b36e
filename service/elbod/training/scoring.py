"""Held-out bounds of rows that are all in memory: networks in float32, densities and their sums in float64.

The noise of row i is keyed by (seed, first_index + i, draw), so that the numbers of a published version can be
computed again by anybody, a service included.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbod.generators import bounds, noise
from elbod.generators.base import Generator
from elbod.generators.bounds import Elbo, Floats, ImportanceWeighted, LabelDraws, PriorTerms
from elbod.generators.noise import Keys, Stream
from elbod.generators.posteriors import ClosedFormPosterior, Posterior
from elbod.generators.priors import ClosedFormPrior

# Rows times draws that are decoded at once: few enough for a core's cache.
_TILE = 256

# The numbers of draws that calibration scores are stored for.
CALIBRATION_SAMPLES = (1, 4, 16, 64)


@dataclass(frozen=True)
class Scores:
    """Per row: the bound of S draws, the importance-weighted bound of K draws (None at K = 0), KL (n, d) by latent
    dimension (None where it does not separate), exact log p(x) (None where the family has none)."""

    elbo: Elbo
    importance: ImportanceWeighted | None
    kl_per_dimension: Floats | None
    log_evidence: Floats | None


@torch.inference_mode()
def score(
    generator: Generator,
    x: Tensor,
    seed: int,
    num_samples: int,
    num_importance_samples: int = 0,
    first_index: int = 0,
    label: Tensor | None = None,
) -> Scores:
    """Scores of x (n, *event_shape) in data units, on the generator's device, which must be in `eval` mode.

    The ELBO uses draws 0 ... S-1 and closed-form prior terms, the importance weights draws 0 ... K-1 and sampled ones.
    A conditional model scores log p(x|y) given labels (n,), and log p(x), the marginal over all of them, without.
    """
    draws = max(num_samples, num_importance_samples)
    weights = num_importance_samples > 0
    importance = None
    # A model that gives infinities is for the caller to refuse, with its row.
    with np.errstate(invalid="ignore", over="ignore"):
        if generator.conditional and label is None:
            by_label = _by_label(generator, x, Stream.POSTERIOR, seed, first_index, draws)
            elbo = bounds.elbo(*by_label.first(num_samples).marginal())
            if weights:
                log_weights = by_label.first(num_importance_samples).marginal_log_weights()
                importance = bounds.importance_weighted(log_weights)
            return Scores(elbo, importance, None, None)
        columns = _columns(generator, x, label, Stream.POSTERIOR, seed, first_index, draws, weights=weights)
        elbo = _elbo(columns, num_samples)
        if weights:
            log_weights = columns["reconstruction"] + columns["log_prior_z"] - columns["log_q_z"]
            importance = bounds.importance_weighted(log_weights[:, :num_importance_samples])
    return Scores(elbo, importance, columns.get("kl_per_dimension"), columns.get("log_evidence"))


@torch.inference_mode()
def calibration_scores(generator: Generator, x: Tensor, label: Tensor | None = None) -> dict[int, Floats]:
    """Ascending bounds of rows that the model has never seen, by number of draws: what later scores are ranked among.

    Row i has the noise of index i in a stream of its own, so that no request shares it. Labels as in `score`.
    """
    most = max(CALIBRATION_SAMPLES)
    with np.errstate(invalid="ignore", over="ignore"):
        if generator.conditional and label is None:
            by_label = _by_label(generator, x, Stream.CALIBRATION, 0, 0, most)
            found = {samples: bounds.elbo(*by_label.first(samples).marginal()) for samples in CALIBRATION_SAMPLES}
        else:
            columns = _columns(generator, x, label, Stream.CALIBRATION, 0, 0, most, weights=False)
            found = {samples: _elbo(columns, samples) for samples in CALIBRATION_SAMPLES}
    return {samples: np.sort(bound.elbo) for samples, bound in found.items()}


def _by_label(generator: Generator, x: Tensor, stream: Stream, seed: int, index: int, draws: int) -> LabelDraws:
    """Every row under every label of the model."""
    log_prob = generator.label_log_prob()
    assert log_prob is not None
    found = [
        _columns(generator, x, torch.full((len(x),), label, device=x.device), stream, seed, index, draws, weights=True)
        for label in range(len(log_prob))
    ]
    terms = (np.stack([f[name] for f in found], axis=1) for name in ("reconstruction", "log_prior_z", "log_q_z"))
    return LabelDraws(_array(log_prob), *terms)


def _elbo(columns: dict[str, Floats], samples: int) -> Elbo:
    if "kl" in columns:
        terms = PriorTerms(*(columns[name][:, None] for name in ("kl", "log_prior", "entropy")))
    elif "kl_z" in columns:
        terms = PriorTerms(*(columns[name][:, :samples] for name in ("kl_z", "expected_log_prior_z", "entropy_z")))
    else:
        log_prior, log_q = columns["log_prior_z"][:, :samples], columns["log_q_z"][:, :samples]
        terms = PriorTerms(kl=log_q - log_prior, log_prior=log_prior, entropy=-log_q)
    if "expected_reconstruction" in columns:
        # Nothing has to be drawn, so there is no Monte-Carlo error.
        exact = bounds.elbo(columns["expected_reconstruction"][:, None], terms)
        return replace(exact, standard_error=np.zeros_like(exact.elbo))
    return bounds.elbo(columns["reconstruction"][:, :samples], terms)


def _columns(
    generator: Generator,
    x: Tensor,
    label: Tensor | None,
    stream: Stream,
    seed: int,
    first_index: int,
    draws: int,
    *,
    weights: bool,
) -> dict[str, Floats]:
    """Terms of all rows by name, in blocks small enough for a core's cache."""
    if generator.training:
        raise ValueError("bounds are reported in eval mode only")
    generator.prepare()
    rows = max(1, _TILE // draws)
    blocks = []
    for start in range(0, len(x), rows):
        given = None if label is None else label[start : start + rows]
        block = x[start : start + rows]
        blocks.append(_score_block(generator, block, given, stream, seed, first_index + start, draws, weights=weights))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _score_block(
    generator: Generator,
    x: Tensor,
    label: Tensor | None,
    stream: Stream,
    seed: int,
    index: int,
    draws: int,
    *,
    weights: bool,
) -> dict[str, Floats]:
    """Terms of a few rows by name: (n,) what is closed-form, (n, draws) what is sampled."""
    prior, encoded = generator.prior(), generator.encode(x, label)
    exact = encoded.double()
    n, step = len(x), max(1, _TILE // len(x))
    closed: dict[str, Tensor | None] = {"log_evidence": generator.log_evidence(x)}
    if (elements := generator.expected_log_likelihood(x, encoded)) is not None:
        closed["expected_reconstruction"] = elements.flatten(1).sum(1)
    if isinstance(prior, ClosedFormPrior) and isinstance(exact, ClosedFormPosterior):
        closed |= {
            "kl": prior.kl(exact),
            "log_prior": prior.expected_log_prob(exact),
            "entropy": exact.entropy(),
            "kl_per_dimension": prior.kl_per_dimension(exact),
        }
    sampled: dict[str, Floats] = {}
    for first in range(0, draws, step):
        count = min(step, draws - first)
        noise = _noise(stream, seed, index, n, first, count, generator.latent_dim).to(x.device)
        repeated = None if label is None else label.repeat_interleave(count, 0)
        drawn = generator.draw(_repeat(generator, encoded, count), noise, repeated)
        element = drawn.observation.double().log_prob(x.repeat_interleave(count, 0))
        found = {"reconstruction": element.flatten(1).sum(1)}
        if weights or "kl" not in closed:
            found |= {"log_prior_z": drawn.terms.log_prior, "log_q_z": drawn.terms.log_q}
        if (given := drawn.terms.conditional) is not None:
            found |= {"kl_z": given.kl, "expected_log_prior_z": given.log_prior, "entropy_z": given.entropy}
        for name, values in found.items():
            sampled.setdefault(name, np.empty((n, draws)))[:, first : first + count] = _array(values).reshape(n, count)
    return sampled | {name: _array(value) for name, value in closed.items() if value is not None}


def _repeat(generator: Generator, q: Posterior, count: int) -> Posterior:
    return generator.posterior({name: value.repeat_interleave(count, 0) for name, value in q.parameters.items()})


def _noise(stream: Stream, seed: int, index: int, rows: int, first: int, count: int, dimensions: int) -> Tensor:
    """(rows * count, d) standard normals, a row's draws contiguous."""
    keys = Keys.of(
        seed, np.repeat(np.arange(index, index + rows), count), np.tile(np.arange(first, first + count), rows)
    )
    return torch.from_numpy(noise.normals(keys, stream, dimensions))


def _array(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array
