"""From a generator, rows and noise to the terms of the bound: the engine, the publish check and training use these."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbod.generators import strata
from elbod.generators.base import Generator, Walk
from elbod.generators.chain import grid
from elbod.generators.chained import Chained
from elbod.generators.posteriors import Posterior
from elbod.generators.terms import Conditional, DrawTerms, PathTerms, RowTerms, added

# Standard normals (n, noise_dimensions) for z of one level; families without levels have level 0 alone.
LevelNoise = Callable[[int], Tensor]
# The same for z of one level a row: noise(rows, levels) is (len(rows), noise_dimensions).
PairNoise = Callable[[strata.Counts, strata.Counts], Tensor]


def row_terms(generator: Generator, x: Tensor, q: Posterior) -> RowTerms[Tensor]:
    """What rows x (n, *event_shape) with the posterior q contribute without a draw."""
    elements = generator.expected_log_likelihood(x, q)
    return RowTerms(
        latent=generator.prior().closed_form(q.double()),
        expected_reconstruction=None if elements is None else elements.flatten(1).sum(-1),
        expected_elements=elements,
        log_evidence=generator.log_evidence(x),
    )


def draw_terms(
    generator: Generator,
    q: Posterior,
    x: Tensor,
    noise: LevelNoise,
    label: Tensor | None = None,
    num_steps: int | None = None,
) -> DrawTerms[Tensor]:
    """What one draw of each row contributes: z ~ q, of families with levels a whole path in `num_steps` passes."""
    walk, path = _end(posterior_passes(generator, q, noise, label, num_steps))
    return DrawTerms(generator.observe(walk, label).double().log_likelihood(x), path)


def score_at_mode(generator: Generator, x: Tensor, label: Tensor | None = None) -> Tensor:
    """log p(x|z), (n,), at temperature 0 of q(z|x); of families with levels log p(x|z_0) + log p - log q of the path
    without noise.

    It needs no random numbers, so that any machine can compare it with what was published.
    """
    q = generator.encode(x, label)
    zeros = torch.zeros(len(x), q.noise_dimensions, device=x.device)
    if generator.levels:
        drawn = draw_terms(generator, q, x, lambda _: zeros, label)
        return drawn.reconstruction - drawn.path.sampled.kl
    walk, _ = generator.begin(q, zeros, temperature=0.0)
    return generator.observe(walk, label).double().log_likelihood(x)


def posterior_passes(
    generator: Generator, q: Posterior, noise: LevelNoise, label: Tensor | None = None, num_steps: int | None = None
) -> Iterator[tuple[Walk, PathTerms[Tensor]]]:
    """The draws after each pass and what the pass contributes, (n,)."""
    walk, path = generator.begin(q, noise(generator.levels))
    assert path is not None
    yield walk, path
    for below in below_top(generator.levels, num_steps):
        walk, path = generator.advance(to_level(walk, below), q, noise(below), label)
        assert path is not None
        yield walk, path


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


def kl_per_level(
    generator: Generator, q: Posterior, x: Tensor, noise: LevelNoise, label: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """log p(x|z_0), (n,), and the KL of each pass given the draw above it, (n, T + 1): entry i is of the pass that
    makes z_i."""
    found = []
    for arrived in posterior_passes(generator, q, noise, label):
        walk, path = arrived
        assert path.conditional is not None
        found.append(path.conditional.kl)
    return generator.observe(walk, label).double().log_likelihood(x), torch.stack(found[::-1], 1)


def sampled_level_terms(
    generator: Chained,
    q: Posterior,
    x: Tensor,
    counts: strata.Counts,
    noise: PairNoise,
    label: Tensor | None = None,
) -> tuple[Tensor, Conditional[Tensor]]:
    """log p(x|z_0) and the other terms, (n,), of one draw of each row, which visits level i `counts` (n, T) times.

    `counts` are `strata.multiplicities` for the generator's `level_weights`. Each level is visited once, with its own
    noise, all of them in one batch, and level 0 too.
    """
    n, weights = len(x), generator.level_weights.cpu().numpy()
    rows, above = counts.nonzero()
    visits = generator.visit(_some(generator, q, rows), _tensor(above + 1, x), noise(rows, above + 1))
    given = None if label is None else label[_tensor(rows, x)]
    visited = generator.level_terms(visits, _some(generator, q, rows), given).kl
    factors = strata.factors(counts, weights)[rows, above]
    kl = generator.first_kl(q).index_add(0, _tensor(rows, x), visited * _tensor(factors, x))
    every, start = np.arange(n), np.zeros(n, np.int64)
    walk = generator.visit(q, _tensor(start, x), noise(every, start))
    entropy = generator.entropy.expand(n)
    reconstruction = generator.observe(walk, label).double().log_likelihood(x)
    return reconstruction, Conditional(kl, -kl - entropy, entropy)


def below_top(levels: int, num_steps: int | None) -> tuple[int, ...]:
    """The levels that are passed on the way down from the top in `num_steps` steps (default all), the top left out."""
    return grid(levels, num_steps or levels)[-2::-1] if levels else ()


def to_level(walk: Walk, below: int) -> Walk:
    """The same draws, of which the next pass makes level `below`."""
    assert walk.level is not None
    return replace(walk, below=torch.full_like(walk.level, below))


def _end(passes: Iterator[tuple[Walk, PathTerms[Tensor]]]) -> tuple[Walk, PathTerms[Tensor]]:
    walk, total = next(passes)
    for arrived in passes:
        walk, path = arrived
        total = added(total, path)
    return walk, total


def _some(generator: Generator, q: Posterior, rows: strata.Counts) -> Posterior:
    """q(z|x) of these rows."""
    return generator.posterior({name: value[_tensor(rows, value)] for name, value in q.parameters.items()})


def _tensor(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)
