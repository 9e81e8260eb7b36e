"""Paths and sampled levels of a chain row by row, as the formulas have them: what the engine does in passes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbod.generators.base import Generator, Walk
from elbod.generators.chained import Chained
from elbod.generators.evaluation import LevelNoise, below_top, to_level
from elbod.generators.posteriors import Posterior
from elbod.generators.strata import Counts, Floats, visited
from elbod.generators.terms import Conditional

# Standard normals for z of one level a row: noise(rows, levels) is (len(rows), noise_dimensions).
PairNoise = Callable[[Counts, Counts], Tensor]


def prior_walk(
    generator: Generator, noise: LevelNoise, label: Tensor | None = None, num_steps: int | None = None
) -> Walk:
    """z_0 ~ p(z): noise(T) makes z_T, and noise(i) the step to level i."""
    walk, _ = generator.begin(None, noise(generator.levels))
    for below in below_top(generator.levels, num_steps):
        walk, _ = generator.advance(to_level(walk, below), None, noise(below), label)
    return walk


def bound_map(
    generator: Chained,
    q: Posterior,
    x: Tensor,
    noise: LevelNoise,
    label: Tensor | None = None,
    num_steps: int | None = None,
) -> Tensor:
    """Each element's share of the log weight of one path of each row, (n, *event_shape): sums to r - k."""
    walk, path = generator.begin_by_element(q, noise(generator.levels))
    kl = path.sampled.kl
    for below in below_top(generator.levels, num_steps):
        walk, path = generator.advance_by_element(to_level(walk, below), q, noise(below), label)
        kl = kl + path.sampled.kl
    return generator.observe(walk, label).double().log_prob(x) - kl.reshape(x.shape)


def sampled_level_terms(
    generator: Chained,
    q: Posterior,
    x: Tensor,
    counts: Counts,
    noise: PairNoise,
    label: Tensor | None = None,
) -> tuple[Tensor, Conditional[Tensor]]:
    """log p(x|z_0) and the other terms, (n,), of one draw of each row, which visits level i `counts` (n, T) times.

    `counts` are `multiplicities` for the generator's `level_weights`. Each level is visited once, with its own
    noise, all of them in one batch, and level 0 too.
    """
    n, weights = len(x), generator.level_weights.cpu().numpy()
    rows, above = counts.nonzero()
    visits = generator.visit(_some(generator, q, rows), _tensor(above + 1, x), noise(rows, above + 1))
    given = None if label is None else label[_tensor(rows, x)]
    divergence = generator.level_terms(visits, _some(generator, q, rows), given).kl
    shares = factors(counts, weights)[rows, above]
    kl = generator.first_kl(q).index_add(0, _tensor(rows, x), divergence * _tensor(shares, x))
    every, start = np.arange(n), np.zeros(n, np.int64)
    walk = generator.visit(q, _tensor(start, x), noise(every, start))
    entropy = generator.entropy.expand(n)
    reconstruction = generator.observe(walk, label).double().log_likelihood(x)
    return reconstruction, Conditional(kl, -kl - entropy, entropy)


def multiplicities(u: Floats, weights: Floats, strata: int) -> Counts:
    """n_i (n, T), how often each draw visits levels 1 ... T."""
    levels = visited(u, weights, strata)
    return np.stack([(levels == level).sum(1) for level in range(1, len(weights) + 1)], axis=1)


def factors(counts: Counts, weights: Floats) -> Floats:
    """n_i/(B w_i), (n, T): what the KL of each level is multiplied by; zero for levels that are not visited."""
    found: Floats = counts / (counts.sum(1, keepdims=True) * weights)
    return found


def _some(generator: Generator, q: Posterior, rows: Counts) -> Posterior:
    """q(z|x) of these rows."""
    return generator.posterior({name: value[_tensor(rows, value)] for name, value in q.parameters.items()})


def _tensor(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)
