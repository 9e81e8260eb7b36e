"""From a generator, rows and noise to the terms of the bound: the engine, the publish check and training use these."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from elbod.generators.base import Generator, Walk
from elbod.generators.chain import grid
from elbod.generators.posteriors import Posterior
from elbod.generators.terms import DrawTerms, PathTerms, RowTerms, added

# Standard normals (n, noise_dimensions) for z of one level; families without levels have level 0 alone.
LevelNoise = Callable[[int], Tensor]


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
