"""Held-out bounds of rows that are all in memory: networks in float32, densities and their sums in float64.

The noise of row i is keyed by (seed, first_index + i, draw), so that the numbers of a published version can be
computed again by anybody, a service included.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbod.generators import bounds, noise
from elbod.generators.base import Generator
from elbod.generators.bounds import Elbo, Floats, ImportanceWeighted, PriorTerms
from elbod.generators.noise import Keys, Stream
from elbod.generators.posteriors import Posterior

# Rows times draws that are decoded at once: few enough for a core's cache.
_TILE = 256


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
    generator: Generator, x: Tensor, seed: int, num_samples: int, num_importance_samples: int = 0, first_index: int = 0
) -> Scores:
    """Scores of x (n, *event_shape) in data units, on the generator's device, which must be in `eval` mode.

    The ELBO uses draws 0 ... S-1 and closed-form prior terms, the importance weights draws 0 ... K-1 and sampled ones.
    """
    if generator.training:
        raise ValueError("bounds are reported in eval mode only")
    draws = max(num_samples, num_importance_samples)
    rows = max(1, _TILE // draws)
    parts = [
        _score_block(
            generator, x[start : start + rows], seed, first_index + start, draws, sampled=num_importance_samples > 0
        )
        for start in range(0, len(x), rows)
    ]
    terms = PriorTerms(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("kl", "prior", "entropy"))
    )
    reconstruction = np.concatenate([part.reconstruction for part in parts])
    importance = None
    # A model that gives infinities is for the caller to refuse, with its row.
    with np.errstate(invalid="ignore", over="ignore"):
        elbo = bounds.elbo(reconstruction[:, :num_samples], terms)
        if num_importance_samples:
            log_weights = np.concatenate([part.log_weights for part in parts if part.log_weights is not None])
            importance = bounds.importance_weighted(log_weights[:, :num_importance_samples])
    separate = [part.kl_per_dimension for part in parts if part.kl_per_dimension is not None]
    exact = [part.log_evidence for part in parts if part.log_evidence is not None]
    return Scores(
        elbo,
        importance,
        np.concatenate(separate) if separate else None,
        np.concatenate(exact) if exact else None,
    )


@dataclass(frozen=True)
class _Block:
    kl: Floats
    prior: Floats
    entropy: Floats
    reconstruction: Floats
    log_weights: Floats | None
    kl_per_dimension: Floats | None
    log_evidence: Floats | None


def _score_block(generator: Generator, x: Tensor, seed: int, index: int, draws: int, *, sampled: bool) -> _Block:
    prior, encoded = generator.prior(), generator.encode(x)
    q = encoded.double()
    n, step = len(x), max(1, _TILE // len(x))
    reconstruction = np.empty((n, draws))
    log_weights = np.empty((n, draws)) if sampled else None
    for first in range(0, draws, step):
        count = min(step, draws - first)
        repeated = _repeat(generator, encoded, count)
        z = repeated.draw(_noise(seed, index, n, first, count, generator.latent_dim).to(x.device))
        element = generator.decode(z).double().log_prob(x.repeat_interleave(count, 0))
        log_likelihood = element.flatten(1).sum(1)
        columns = slice(first, first + count)
        reconstruction[:, columns] = _array(log_likelihood).reshape(n, count)
        if log_weights is not None:
            log_weight = log_likelihood + (prior.log_prob(z) - repeated.log_prob(z))
            log_weights[:, columns] = _array(log_weight).reshape(n, count)
    kl_per_dimension, log_evidence = prior.kl_per_dimension(q), generator.log_evidence(x)
    return _Block(
        kl=_array(prior.kl(q))[:, None],
        prior=_array(prior.expected_log_prob(q))[:, None],
        entropy=_array(q.entropy())[:, None],
        reconstruction=reconstruction,
        log_weights=log_weights,
        kl_per_dimension=None if kl_per_dimension is None else _array(kl_per_dimension),
        log_evidence=None if log_evidence is None else _array(log_evidence),
    )


def _repeat(generator: Generator, q: Posterior, count: int) -> Posterior:
    parameters = {name: value.repeat_interleave(count, 0) for name, value in q.parameters.items()}
    return generator.posterior(parameters).double()


def _noise(seed: int, index: int, rows: int, first: int, count: int, dimensions: int) -> Tensor:
    """(rows * count, d) standard normals, a row's draws contiguous."""
    keys = Keys.of(
        seed, np.repeat(np.arange(index, index + rows), count), np.tile(np.arange(first, first + count), rows)
    )
    return torch.from_numpy(noise.normals(keys, Stream.POSTERIOR, dimensions))


def _array(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array
