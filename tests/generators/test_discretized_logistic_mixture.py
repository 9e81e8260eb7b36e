"""A mixture of discretized logistics: proper, drawn with one uniform, and a single component is the plain one."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elbod.generators.likelihoods import (
    DiscretizedLogisticMixture,
    DiscretizedLogisticMixtureObservation,
    DiscretizedLogisticObservation,
    Observation,
    make_likelihood,
)

NAME = "discretized_logistic_mixture"
# Location outputs are in units of half the range, scale outputs in their logarithms.
LOGITS = (-1e30, -1e4, -30.0, -1.0, 0.0, 0.5, 20.0, 1e4)
LOCATIONS = (-1e4, -30.0, -1.0, -0.4, 0.0, 1e-3, 0.5, 1.0, 3.0, 1e4)
LOG_SCALES = (-1e4, -7.0, -5.0, -3.0, -1.0, 0.0, 2.0, 7.0, 1e4)
LEVELS = (2, 17, 256)

levels_of = pytest.mark.parametrize("levels", LEVELS)
floats = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def _grid(dtype: torch.dtype = torch.float64) -> Tensor:
    """(400, 1, 15): components picked from the extremes above."""
    generator = torch.Generator().manual_seed(0)
    shape = (400, 1, DiscretizedLogisticMixture.components)
    columns = [
        torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), shape, generator=generator)]
        for values in (LOGITS, LOCATIONS, LOG_SCALES)
    ]
    return torch.stack(columns, -1).flatten(-2).to(dtype)


def _sane(seed: int = 1) -> Tensor:
    """(20, 1, 15): bumps within the range, none so narrow that rounding decides its draws."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(20, 1, DiscretizedLogisticMixture.components, 3, generator=generator, dtype=torch.float64)
    return (unit * torch.tensor([2, 0.7, 1]) + torch.tensor([0, 0, -2])).flatten(-2)


def _observe(outputs: Tensor, levels: int) -> Observation:
    likelihood = make_likelihood(NAME, (1,), levels)
    shift, scale = likelihood.standardization(torch.zeros(2, 1))
    return likelihood.observe(outputs, shift.to(outputs.dtype), scale.to(outputs.dtype))


def _log_pmf(observation: Observation, levels: int) -> Tensor:
    """(n, levels)."""
    return observation.log_prob(torch.arange(levels)[:, None, None])[..., 0].mT


@levels_of
@floats
def test_a_mixture_sums_to_one_and_is_finite(levels: int, dtype: torch.dtype) -> None:
    """Over all levels, edge bins included, wherever the components lie and however they are weighted."""
    log_pmf = _log_pmf(_observe(_grid(dtype), levels), levels)
    assert log_pmf.dtype == dtype
    assert torch.isfinite(log_pmf).all()
    total = log_pmf.exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-4)


@levels_of
def test_the_pmf_is_the_weighted_sum_of_its_components(levels: int) -> None:
    """P(x) = sum over m of w_m P_m(x), each P_m an observation of `discretized_logistic` with the same outputs."""
    outputs = _sane()
    single = make_likelihood("discretized_logistic", (1,), levels)
    shift, scale = (value.double() for value in single.standardization(torch.zeros(2, 1)))
    parts = outputs.unflatten(-1, (-1, 3))
    weights = torch.softmax(parts[..., 0], -1)
    pmf, mean = torch.zeros(20, levels, dtype=torch.float64), torch.zeros(20, 1, dtype=torch.float64)
    for m in range(parts.shape[-2]):
        component = single.observe(parts[..., m, 1:], shift, scale)
        pmf += weights[..., m] * _log_pmf(component, levels).exp()
        mean += weights[..., m] * component.mean()
    observation = _observe(outputs, levels)
    torch.testing.assert_close(_log_pmf(observation, levels).exp(), pmf, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(observation.mean(), mean, rtol=1e-12, atol=1e-12)


@levels_of
def test_a_mixture_of_one_component_is_that_component(levels: int) -> None:
    """The same floats, and the same draws but where u is on a step."""
    pairs = torch.tensor(list(itertools.product(LOCATIONS, LOG_SCALES[1:-1])), dtype=torch.float64)
    top = levels - 1
    single = DiscretizedLogisticObservation(top * pairs[:, :1], pairs[:, 1:], levels)
    components = DiscretizedLogisticObservation(single.location[..., None], single.log_scale[..., None], levels)
    mixture = DiscretizedLogisticMixtureObservation(torch.full_like(components.location, 3.7), components)
    assert torch.equal(_log_pmf(mixture, levels), _log_pmf(single, levels))
    assert torch.equal(mixture.mean(), single.mean())
    u = torch.rand(200, len(pairs), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    different = [mixture.icdf(row) != single.icdf(row) for row in u]
    assert torch.stack(different).double().mean() < 1e-3


def test_a_uniform_on_a_step_draws_the_level_below_it() -> None:
    """F(3) = 1/2 exactly where the location is 3.5, and icdf(1/2) is the smallest level that reaches 1/2."""
    parameter = torch.tensor([[[3.5]]], dtype=torch.float64)
    components = DiscretizedLogisticObservation(parameter, torch.zeros_like(parameter), 17)
    mixture = DiscretizedLogisticMixtureObservation(torch.zeros_like(parameter), components)
    half = torch.tensor([[0.5]], dtype=torch.float64)
    assert mixture.icdf(half) == 3
    assert mixture.icdf(half + 1e-15) == 4


@levels_of
def test_the_mean_is_the_sum_over_levels(levels: int) -> None:
    """mean() = sum over k of k P(k)."""
    observation = _observe(_grid(), levels)
    expected = (_log_pmf(observation, levels).exp() * torch.arange(levels)).sum(1, keepdim=True)
    torch.testing.assert_close(observation.mean(), expected, rtol=1e-11, atol=1e-11)


@given(st.integers(0, 1000), st.sampled_from(LEVELS), st.floats(2.0**-33, 1 - 2.0**-33))
def test_icdf_is_the_smallest_level_that_the_cumulative_probability_reaches(seed: int, levels: int, u: float) -> None:
    """F(x - 1) < u <= F(x), to rounding, with F the cumulative sum of the pmf of the whole mixture."""
    observation = _observe(_sane(seed), levels)
    x = observation.icdf(torch.full((20, 1), u, dtype=torch.float64))
    below_and_at = torch.nn.functional.pad(_log_pmf(observation, levels).exp().cumsum(1), (1, 0))
    below, at = (below_and_at.take_along_dim(x.long() + step, 1) for step in (0, 1))
    assert (below < u + 1e-12).all()
    assert (u < at + 1e-12).all()


def test_draws_follow_the_pmf() -> None:
    """A uniform grid of 20,000 u gives every level its probability to within one part of the grid."""
    observation = _observe(_sane()[:1], 17)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    x = observation.icdf(u[:, None]).long().flatten()
    frequencies = torch.bincount(x, minlength=17) / 20_000
    torch.testing.assert_close(frequencies.double(), _log_pmf(observation, 17)[0].exp(), rtol=0, atol=1.01 / 20_000)


@levels_of
@pytest.mark.parametrize("u", [2.0**-33, 0.5, 1 - 2.0**-33])
def test_every_draw_lies_in_the_support(levels: int, u: float) -> None:
    """Whatever the parameters, the smallest and the largest uniform of the noise give levels."""
    x = _observe(_grid(), levels).icdf(torch.full((400, 1), u, dtype=torch.float64))
    assert make_likelihood(NAME, (1,), levels).supports(x).all()


@pytest.mark.parametrize("k", [0.0, 100.0, 255.0])
def test_gradients_are_finite(k: float) -> None:
    """In float32, at the extremes: a component without weight and a level without mass leave no NaN."""
    leaf = _grid(torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(_observe(leaf, 256).log_prob(torch.full((400, 1), k)).sum(), leaf)
    assert torch.isfinite(gradient).all()


def test_double_is_the_same_distribution_with_float64_parameters() -> None:
    single = _observe(_sane().float(), 17)
    x = torch.full((20, 1), 4.0)
    assert single.double().log_prob(x).dtype == torch.float64
    torch.testing.assert_close(single.double().log_prob(x).float(), single.log_prob(x))
