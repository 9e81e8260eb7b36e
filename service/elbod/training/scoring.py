"""Held-out bounds of rows that are all in memory: networks in float32, densities and their sums in float64.

The noise of row i is keyed by (seed, first_index + i, draw), so that the numbers of a published version can be
computed again by anybody, a service included.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from elbod.generators import bounds
from elbod.generators.base import Generator
from elbod.generators.bounds import Elbo, Floats, ImportanceWeighted
from elbod.generators.chained import Chained
from elbod.generators.evaluation import LevelNoise, draw_terms, kl_per_level, row_terms
from elbod.generators.noise import Keys, Stream, blocks_of, normals
from elbod.generators.terms import DrawTerms, Terms, mapped

# Rows times draws that are decoded at once: few enough for a core's cache.
_TILE = 256

# The numbers of draws that calibration scores are stored for; a whole path of a chain takes as long as many draws.
_CALIBRATION_SAMPLES, _CALIBRATION_PATHS = (1, 4, 16, 64), (1, 4)
# Rows whose paths say how much each level of a chain contributes.
_PROFILED_ROWS = 256


@dataclass(frozen=True)
class Scores:
    """Per row: the bound of S draws, the importance-weighted bound of K draws (None at K = 0), KL (n, d) by latent
    dimension (None where it does not separate), exact log p(x) (None where the family has none)."""

    elbo: Elbo
    importance: ImportanceWeighted | None
    kl_per_dimension: Floats | None
    log_evidence: Floats | None


@dataclass(frozen=True)
class _Draws:
    """Which draws: those of example `first_index + i` for row i."""

    stream: Stream
    seed: int
    first_index: int
    count: int


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

    The ELBO uses draws 0 ... S-1 and closed-form terms, the importance weights draws 0 ... K-1 and sampled ones.
    A conditional model scores log p(x|y) given labels (n,), and log p(x) without: by its null label if it has one, else
    by the marginal over all of them.
    """
    draws = _Draws(Stream.POSTERIOR, seed, first_index, max(num_samples, num_importance_samples))
    terms = _terms(generator, x, label, draws)
    # A model that gives infinities is for the caller to refuse, with its row.
    with np.errstate(invalid="ignore", over="ignore"):
        importance = None
        if num_importance_samples > 0:
            importance = bounds.importance_weighted(bounds.log_weights(terms, num_importance_samples))
        elbo = bounds.bound(terms, num_samples)
    if terms.label_log_prob is not None:
        return Scores(elbo, importance, None, None)
    latent = terms.rows.latent
    return Scores(elbo, importance, None if latent is None else latent.kl_per_dimension, terms.rows.log_evidence)


def calibration_scores(generator: Generator, x: Tensor, label: Tensor | None = None) -> dict[int, Floats]:
    """Ascending bounds of rows that the model has never seen, by number of draws: what later scores are ranked among.

    Row i has the noise of index i in a stream of its own, so that no request shares it. Labels as in `score`.
    """
    counts = _CALIBRATION_PATHS if generator.levels else _CALIBRATION_SAMPLES
    terms = _terms(generator, x, label, _Draws(Stream.CALIBRATION, 0, 0, max(counts)))
    with np.errstate(invalid="ignore", over="ignore"):
        return {samples: np.sort(bounds.bound(terms, samples).elbo) for samples in counts}


@torch.inference_mode()
def weigh_levels(generator: Chained, x: Tensor, label: Tensor | None = None) -> Floats:
    """Let the generator sample levels by what each contributes on rows that it has never seen, one path a row.

    Returns the mean KL of the pass that makes each level, (T + 1,), nats.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, min(len(x), _PROFILED_ROWS), _TILE):
        rows = x[start : min(start + _TILE, _PROFILED_ROWS)]
        given = None if label is None else label[start : start + len(rows)]
        q = generator.encode(rows, given)
        keys = Keys.of(0, np.arange(start, start + len(rows)), 0)
        noise = _level_noise(keys, Stream.CALIBRATION, q.noise_dimensions, x.device)
        found.append(kl_per_level(generator, q, rows, noise, given))
    reconstruction, kl = (torch.cat(values) for values in zip(*found, strict=True))
    # The pass that makes level i begins at level i + 1; the last entry is of no pass.
    generator.keep_profile(reconstruction, kl[:, :-1])
    return _array(kl.mean(0))


@torch.inference_mode()
def _terms(generator: Generator, x: Tensor, label: Tensor | None, draws: _Draws) -> Terms:
    """Terms of all rows; of a conditional model without labels under every label, or under its null label."""
    if generator.training:
        raise ValueError("bounds are reported in eval mode only")
    generator.prepare()
    log_prob = generator.label_log_prob() if label is None and generator.null_label is None else None
    if log_prob is None:
        return _all_rows(generator, x, label, draws)
    every = [_all_rows(generator, x, torch.full((len(x),), y, device=x.device), draws) for y in range(len(log_prob))]
    by_label: DrawTerms[Floats] = mapped(lambda *drawn: np.stack(drawn, axis=1), *(terms.draws for terms in every))
    return Terms(every[0].rows, by_label, log_prob.cpu().numpy())


def _all_rows(generator: Generator, x: Tensor, label: Tensor | None, draws: _Draws) -> Terms:
    """In blocks small enough for a core's cache."""
    rows, blocks = max(1, _TILE // draws.count), []
    for start in range(0, len(x), rows):
        given = None if label is None else label[start : start + rows]
        block = replace(draws, first_index=draws.first_index + start)
        blocks.append(_block(generator, x[start : start + rows], given, block))
    joined: Terms = mapped(lambda *values: np.concatenate(values), *blocks)
    return joined


def _block(generator: Generator, x: Tensor, label: Tensor | None, draws: _Draws) -> Terms:
    """Terms of a few rows and of their draws, as many at once as fit a tile."""
    n, encoded = len(x), generator.encode(x, label)
    step, found = max(1, _TILE // n), []
    for first in range(0, draws.count, step):
        count = min(step, draws.count - first)
        index = np.arange(draws.first_index, draws.first_index + n)
        keys = Keys.of(draws.seed, np.repeat(index, count), np.tile(np.arange(first, first + count), n))
        noise = _level_noise(keys, draws.stream, encoded.noise_dimensions, x.device)
        q = generator.posterior({name: value.repeat_interleave(count, 0) for name, value in encoded.parameters.items()})
        repeated = None if label is None else label.repeat_interleave(count, 0)
        drawn = draw_terms(generator, q, x.repeat_interleave(count, 0), noise, repeated)
        found.append(mapped(lambda value: _array(value).reshape(n, -1), drawn))
    all_draws: DrawTerms[Floats] = mapped(lambda *values: np.concatenate(values, axis=1), *found)
    return Terms(mapped(_array, row_terms(generator, x, encoded)), all_draws)


def _level_noise(keys: Keys, stream: Stream, dimensions: int, device: torch.device) -> LevelNoise:
    blocks = blocks_of(dimensions)
    return lambda level: torch.from_numpy(normals(keys, stream, dimensions, level * blocks)).to(device)


def _array(values: Tensor) -> Floats:
    array: Floats = values.double().cpu().numpy()
    return array
