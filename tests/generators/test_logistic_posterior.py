"""Bayes' rule for a discretized logistic while training: its numbers, its gradient, and its blocks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elbod.generators import belief
from elbod.generators.diffusion import Diffusion
from elbod.generators.likelihoods import CategoricalObservation, DiscretizedLogisticObservation
from elbod.generators.logistic_posterior import logistic_posterior
from elbod.generators.noise import Keys, Stream, normals
from tests.support import DIFFUSION, build_generator

LEVELS = [2, 3, 9, 256]


def _inputs(levels: int, n: int = 4, dims: int = 3) -> tuple[Tensor, ...]:
    """Locations within and beyond the levels, scales of a fraction of one to many; the two last have no gradient."""
    random = torch.Generator().manual_seed(levels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random, dtype=torch.float64)

    top = levels - 1
    trained = (
        uniform(-0.2 * top, 1.2 * top, n, dims),
        uniform(-2, 3, n, dims),
        uniform(-0.1 * top, 1.1 * top, n, dims),
        uniform(0.001, 0.3, n, dims),
    )
    x = torch.randint(0, levels, (n, dims), generator=random)
    return *(each.requires_grad_() for each in trained), uniform(-3, 0, dims, levels), x


def _plainly(
    location: Tensor, log_scale: Tensor, noisy: Tensor, precision: Tensor, correction: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by `belief`, with f = x, a = 1 and s^2 = 1/2h."""
    levels = correction.shape[-1]
    pi = DiscretizedLogisticObservation(location, log_scale, levels).log_levels() + correction
    zeros, ones = torch.zeros(len(correction)).double(), torch.ones(len(correction)).double()
    one = torch.ones(1, 1, dtype=torch.float64)
    post = belief.posterior(CategoricalObservation(pi), noisy, one, 1 / (2 * precision), (zeros, ones))
    m, v = belief.moments(post, zeros, ones)
    return m - noisy, v, post.log_prob(x)


@pytest.mark.parametrize("levels", LEVELS)
def test_its_gradient_is_that_of_finite_differences(levels: int) -> None:
    *trained, correction, x = _inputs(levels)
    assert torch.autograd.gradcheck(lambda *inputs: logistic_posterior(*inputs, correction, x), trained)
    fixed = [each.detach() for each in trained[2:]]
    assert torch.autograd.gradcheck(lambda *inputs: logistic_posterior(*inputs, *fixed, correction, x), trained[:2])


@pytest.mark.parametrize("levels", LEVELS)
def test_it_is_bayes_rule(levels: int) -> None:
    """With its gradient, by autograd through every level."""
    inputs = _inputs(levels)
    found, expected = logistic_posterior(*inputs), _plainly(*inputs)
    weights = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    slopes, known = (torch.autograd.grad((weights * torch.stack(each)).sum(), inputs[:4]) for each in (found, expected))
    for some, other in zip((*found, *slopes), (*expected, *known), strict=True):
        torch.testing.assert_close(some, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [-4.0, 0.0, 4.0])
@pytest.mark.parametrize("precision", [1e-4, 0.1, 1e4])
def test_it_is_exact_in_both_tails(scale: float, precision: float) -> None:
    """Where belief and noisy value are hundreds of scales apart; in float32 up to its rounding."""
    location, noisy, x = (
        each.flatten() for each in torch.meshgrid(*3 * [torch.tensor([0.0, 120, 255])], indexing="ij")
    )
    inputs = [each[None].double() for each in (location, torch.full_like(location, scale), noisy + 0.3)]
    inputs += [torch.full_like(inputs[0], precision), torch.zeros(27, 256).double(), x[None].double()]
    expected = _plainly(*inputs[:5], x[None])
    for some, other in zip(logistic_posterior(*inputs), expected, strict=True):
        torch.testing.assert_close(some, other, rtol=1e-9, atol=1e-9)
    single = logistic_posterior(*(each.float() for each in inputs))
    for some, other in zip(single, expected, strict=True):
        torch.testing.assert_close(some.double(), other, rtol=1e-4, atol=2e-3)


def _model(**spec: Any) -> Diffusion:
    """24 elements of 256 levels, of which some rows make a block."""
    blueprint = replace(DIFFUSION, levels=256, event_shape=(4, 6), spec={**DIFFUSION.spec, "dropout": 0.0, **spec})
    found = build_generator(blueprint)
    assert isinstance(found, Diffusion)
    return found


def _batch(model: Diffusion, n: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 256, (n, *model.event_shape), generator=torch.Generator().manual_seed(1))
    noise = normals(Keys.of(0, np.arange(n)), Stream.PRIOR, model.objective_noise_dimensions)
    return x, torch.from_numpy(noise).float()


def test_a_row_has_the_same_bytes_in_any_block() -> None:
    model, n = _model(), 130
    assert len(belief.row_blocks(n, 24 * 256, torch.device("cpu"))) > 2
    z = torch.randn(n, 24, generator=torch.Generator().manual_seed(2))
    level = torch.arange(n) % (model.levels + 1)
    whole = model.denoise(z, level)
    rolled = model.denoise(z.roll(17, 0), level.roll(17, 0))
    for some, other in zip(whole, rolled, strict=True):
        assert torch.equal(some.roll(17, 0), other)


@pytest.mark.parametrize("variance", ["belief", "fixed"])
def test_what_is_trained_is_what_is_scored(variance: str) -> None:
    """The objective and its gradient in float32 while training, in float64 otherwise."""
    model = _model(schedule="learned", reverse_variance=variance).requires_grad_(True)
    model.prepare()
    x, noise = _batch(model, 60)
    found = []
    for training in (True, False):
        model.train(training).zero_grad()
        # In evaluation levels are sampled by the same weights, which training moves afterwards.
        profile = model.profile.clone()
        objective = model.objective(x, noise, 1.0)
        model.profile.copy_(profile)
        objective.mean().backward()
        gradients = {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}
        found.append((objective.detach(), gradients))
    (trained, slopes), (scored, known) = found
    torch.testing.assert_close(trained, scored, rtol=1e-4, atol=1e-3)
    assert slopes.keys() == known.keys()
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, known[name], rtol=1e-2, atol=1e-3 * float(known[name].abs().max()))
