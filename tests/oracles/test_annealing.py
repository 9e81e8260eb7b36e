"""Bidirectional Monte Carlo: on data simulated with their z, two chains bracket log p(x) from below and above."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from elbod.generators.base import Blueprint, Generator
from elbod.generators.bounds import importance_weighted
from elbod.generators.evaluation import draw_terms
from tests.oracles import annealing
from tests.oracles.annealing import LogDensity
from tests.support import build_generator

CHAINS = 300


def _ppca() -> Generator:
    generator = build_generator(
        Blueprint(family="ppca", spec={"latent_dim": 3}, likelihood="gaussian", event_shape=(8,))
    )
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) @ torch.randn(
        3, 8, generator=torch.Generator().manual_seed(2)
    )
    generator.initialize(rows + 0.5 * torch.randn(40, 8, generator=torch.Generator().manual_seed(3)))
    return generator.double()


def _bits() -> Generator:
    blueprint = Blueprint(
        family="vae", spec={"latent_dim": 2, "hidden": [16]}, likelihood="bernoulli", event_shape=(20,), levels=2
    )
    generator = build_generator(blueprint).double()
    with torch.no_grad():
        # Untrained decoders hardly look at z.
        for parameter in generator.decoder.parameters():  # type: ignore[operator, union-attr]
            parameter.mul_(2.5)
    return generator


def _simulate(generator: Generator) -> tuple[Tensor, Tensor]:
    """(z, x) ~ p(z) p(x|z), one of each."""
    random = torch.Generator().manual_seed(5)
    z = torch.randn(1, generator.latent_dim, generator=random, dtype=torch.float64)
    u = torch.rand(1, *generator.event_shape, generator=random, dtype=torch.float64)
    return z, generator.decode(z).icdf(u)


def _densities(generator: Generator, x: Tensor) -> tuple[LogDensity, LogDensity]:
    def log_likelihood(z: Tensor) -> Tensor:
        return generator.decode(z).log_prob(x.expand(len(z), *x.shape[1:])).flatten(1).sum(1)

    return generator.prior().log_prob, log_likelihood


def _bracket(generator: Generator, temperatures: int, start: Tensor | None = None) -> list[tuple[float, float]]:
    """(mean, standard error) of forward and reverse log weights; reverse chains begin at z* unless told otherwise."""
    z, x = _simulate(generator)
    densities = _densities(generator, x)
    # Most temperatures near the prior, where the path bends most.
    betas = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64) ** 2
    prior = torch.randn(CHAINS, generator.latent_dim, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    end = _exact(generator, z, x) if start is None else start
    runs = (annealing.forward(*densities, prior, betas, seed=1), annealing.reverse(*densities, end, betas, seed=2))
    return [(float(w.mean()), float(w.std()) / math.sqrt(CHAINS)) for w in runs]


def _exact(generator: Generator, z: Tensor, x: Tensor) -> Tensor:
    """Draws from p(z|x): the family's own where it is exact, else z* itself, in every chain."""
    if generator.blueprint.family == "ppca":
        noise = torch.randn(CHAINS, z.shape[1], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        q = generator.encode(x)
        return generator.posterior({name: v.expand(CHAINS, -1) for name, v in q.parameters.items()}).draw(noise)
    return z.expand(CHAINS, -1)


def _evidence(generator: Generator) -> float:
    """Exact, or by Gauss-Hermite quadrature over both latents."""
    _, x = _simulate(generator)
    if (exact := generator.log_evidence(x)) is not None:
        return float(exact)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    z = torch.cartesian_prod(torch.from_numpy(nodes), torch.from_numpy(nodes))
    log_weights = torch.from_numpy(np.log(np.outer(weights, weights).ravel() / (2 * math.pi)))
    return float(torch.logsumexp(_densities(generator, x)[1](z) + log_weights, 0))


def test_forward_is_below_and_reverse_above_the_truth() -> None:
    """With exact posterior draws, and both miss it by more than their error when there are few temperatures."""
    generator = _ppca()
    truth = _evidence(generator)
    (low, low_error), (high, high_error) = _bracket(generator, temperatures=4)
    assert low + 4 * low_error < truth < high - 4 * high_error


def test_the_bracket_closes_on_the_truth_as_temperatures_grow() -> None:
    generator = _ppca()
    truth = _evidence(generator)
    widths = []
    for temperatures in (4, 16, 128):
        (low, low_error), (high, high_error) = _bracket(generator, temperatures)
        assert low - 4 * low_error <= truth <= high + 4 * high_error
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]
    assert widths[2] < 1


def test_forward_weights_are_unbiased_for_the_evidence() -> None:
    """E[w] = p(x): a transition that accepts wrongly, or a weight taken after it, fails this."""
    generator = _ppca()
    _, x = _simulate(generator)
    prior = torch.randn(4000, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    betas = torch.linspace(0, 1, 17, dtype=torch.float64) ** 2
    weights = (annealing.forward(*_densities(generator, x), prior, betas, seed=3) - _evidence(generator)).exp()
    assert float(weights.mean()) == pytest.approx(1, abs=4 * float(weights.std()) / 4000**0.5)


def test_reverse_chains_that_do_not_begin_at_the_posterior_are_no_upper_bound() -> None:
    """Begun at draws from the prior they fall below the truth: the bracket can fail."""
    generator = _ppca()
    prior = torch.randn(CHAINS, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    _, (high, error) = _bracket(generator, 4, start=prior)
    assert high < _evidence(generator) - 4 * error


def test_quadrature_and_importance_weighting_lie_inside_the_bracket_of_a_binary_model() -> None:
    generator = _bits()
    truth = _evidence(generator)
    (low, low_error), (high, high_error) = _bracket(generator, temperatures=64)
    assert low - 4 * low_error <= truth <= high + 4 * high_error
    _, x = _simulate(generator)
    noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    q = generator.posterior({name: v.expand(20_000, -1) for name, v in generator.encode(x).parameters.items()})
    drawn = draw_terms(generator, q, x.expand(20_000, -1), lambda _: noise)
    bound = importance_weighted((drawn.reconstruction - drawn.path.sampled.kl)[None].numpy())
    assert bound.iwae[0] <= high + 4 * high_error
    assert bound.iwae[0] == pytest.approx(truth, abs=0.1)
