"""Likelihoods are proper, finite, and agree with themselves: log_prob, mean, icdf and support."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from elbod.generators.likelihoods import (
    LIKELIHOODS,
    BernoulliObservation,
    DiscretizedLogisticObservation,
    GaussianObservation,
    Observation,
    make_likelihood,
)

# Location outputs are in units of half the range, scale outputs in their logarithms.
LOCATIONS = (-1e4, -30.0, -3.0, -1.0, -0.999, -0.4, 0.0, 1e-3, 0.5, 1.0, 3.0, 30.0, 1e4)
LOG_SCALES = (-1e4, -8.0, -7.0, -5.0, -3.0, -1.0, 0.0, 2.0, 7.0, 30.0, 1e4)
LEVELS = (2, 3, 17, 256)

floats = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def _grid(dtype: torch.dtype) -> Tensor:
    """(n, 1, 2): every pair of a location and a log-scale, one element an event."""
    return torch.tensor(list(itertools.product(LOCATIONS, LOG_SCALES)), dtype=dtype)[:, None, :]


def _observe(name: str, outputs: Tensor, levels: int | None = None) -> Observation:
    likelihood = make_likelihood(name, (1,), levels)
    shift, scale = likelihood.standardization(torch.zeros(2, 1))
    return likelihood.observe(outputs, shift.to(outputs.dtype), scale.to(outputs.dtype))


def _at(observation: Observation, x: float) -> Tensor:
    """log p(x) under every element."""
    parameter: Tensor = next(iter(vars(observation).values()))
    return observation.log_prob(torch.full_like(parameter, x))


def _pmf(observation: Observation, levels: int) -> Tensor:
    """(n, levels)."""
    return torch.cat([_at(observation, k).exp() for k in range(levels)], dim=1)


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("levels", LEVELS)
@floats
def test_a_discretized_logistic_sums_to_one(levels: int, dtype: torch.dtype) -> None:
    """Over all levels, edge bins included, wherever the location and however small or large the scale."""
    total = _pmf(_observe("discretized_logistic", _grid(dtype), levels), levels).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("levels", LEVELS)
def test_a_discretized_logistic_integrates_a_logistic_over_unit_bins(levels: int) -> None:
    """P(x <= k) = sigmoid((k + 1/2 - location)/s) for k < levels - 1: the closed edges own the tails."""
    location, log_scale = _double(-2.0, 0.3, 1.5, 7.0)[:, None], _double(0.4)
    observation = DiscretizedLogisticObservation(location, log_scale.expand(4, 1), levels)
    cdf = _pmf(observation, levels).cumsum(1).numpy()
    edges = np.arange(levels) + 0.5
    expected = stats.logistic.cdf(edges, loc=location.numpy(), scale=math.exp(0.4))
    np.testing.assert_allclose(cdf[:, :-1], expected[:, :-1], rtol=1e-12)
    np.testing.assert_allclose(cdf[:, -1], 1, rtol=1e-12)


@floats
def test_a_bernoulli_sums_to_one(dtype: torch.dtype) -> None:
    """P(0) + P(1) = 1 for any logit, and P(1) is its sigmoid."""
    logits = torch.tensor([-1e4, -100, -20, -1, 0, 1e-3, 5, 40, 1e4], dtype=dtype)[:, None]
    pmf = _pmf(BernoulliObservation(logits), 2)
    torch.testing.assert_close(pmf.sum(1), torch.ones(9, dtype=dtype))
    torch.testing.assert_close(pmf[:, 1:], 1 / (1 + torch.exp(-logits)))


@pytest.mark.parametrize("log_scale", [-6.0, -1.0, 0.0, 3.0])
@pytest.mark.parametrize("location", [-5.0, 0.0, 0.3])
def test_a_gaussian_integrates_to_one(location: float, log_scale: float) -> None:
    """By the trapezoidal rule on 12 standard deviations each way, which is exact to rounding for a Gaussian."""
    scale = math.exp(log_scale)
    x = torch.linspace(location - 12 * scale, location + 12 * scale, 2001, dtype=torch.float64)[:, None]
    observation = GaussianObservation(_double(location), _double(log_scale))
    density = observation.log_prob(x).exp()[:, 0]
    step = 24 * scale / 2000
    x = x[:, 0]
    assert float(density.sum() * step) == pytest.approx(1, abs=1e-12)
    assert float((density * x).sum() * step) == pytest.approx(location, abs=1e-11)
    assert float((density * (x - location) ** 2).sum() * step) == pytest.approx(scale**2, rel=1e-9)


@floats
@pytest.mark.parametrize("levels", LEVELS)
def test_log_prob_is_finite_at_every_level(levels: int, dtype: torch.dtype) -> None:
    """No output of a network, however extreme, gives NaN or infinity: the mass may be exp(-1e9), never zero."""
    observation = _observe("discretized_logistic", _grid(dtype), levels)
    for k in range(levels):
        value = _at(observation, k)
        assert value.dtype == dtype
        assert torch.isfinite(value).all()
        assert (value <= 0).all()


@floats
def test_log_prob_of_a_bernoulli_is_finite(dtype: torch.dtype) -> None:
    """A certain decoder that is wrong is very wrong, not infinitely."""
    logits = torch.tensor([-1e30, -1e4, 0.0, 1e4, 1e30], dtype=dtype)
    for x in (0.0, 1.0):
        assert torch.isfinite(_at(BernoulliObservation(logits), x)).all()


@floats
def test_log_prob_of_a_gaussian_is_finite(dtype: torch.dtype) -> None:
    """Within what float32 squares."""
    observation = _observe("gaussian", _grid(dtype))
    for x in (-1e6, -1.0, 0.0, 1e6):
        assert torch.isfinite(_at(observation, x)).all()


@pytest.mark.parametrize(("name", "levels"), [("bernoulli", None), ("gaussian", None), ("discretized_logistic", 256)])
def test_training_gradients_are_finite(name: str, levels: int | None) -> None:
    """The branch that a level does not take leaves no NaN in the gradient of the one that it takes."""
    outputs = torch.tensor(list(itertools.product(LOCATIONS, (-8.0, 0.0, 8.0, 90.0, 1e4))))[:, None, :]
    parameters = LIKELIHOODS[name].parameters
    for x in (0.0, 1.0) if levels is None else (0.0, 100.0, levels - 1.0):
        leaf = outputs[..., :parameters].clone().requires_grad_()
        _at(_observe(name, leaf, levels), x).sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def _sane_grid() -> Tensor:
    pairs = itertools.product((-1.5, -1.0, -0.3, 0.0, 0.7, 1.2), (-7.0, -3.0, -1.0, 1.0))
    return torch.tensor(list(pairs), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "levels"),
    [("bernoulli", 2), ("discretized_logistic", 2), *(("discretized_logistic", levels) for levels in (17, 256))],
)
def test_icdf_inverts_the_cumulative_pmf(name: str, levels: int) -> None:
    """icdf(u) is the smallest level whose cumulative probability reaches u, so a uniform u gives a draw."""
    outputs = _sane_grid()[:, None, : LIKELIHOODS[name].parameters]
    observation = _observe(name, outputs, levels)
    cdf = _pmf(observation, levels).cumsum(1)
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    x = torch.cat([observation.icdf(value.expand(len(outputs), 1)) for value in u], dim=1)
    u = u.expand(len(outputs), -1).contiguous()
    expected = torch.searchsorted(cdf, u).clamp(max=levels - 1)
    at_a_step = torch.searchsorted(cdf, u - 1e-9) != torch.searchsorted(cdf, u + 1e-9)
    assert at_a_step.double().mean() < 0.05
    assert torch.equal(x[~at_a_step], expected[~at_a_step].to(x.dtype))


@pytest.mark.parametrize(("name", "levels"), [("bernoulli", 2), *(("discretized_logistic", n) for n in LEVELS)])
def test_the_mean_is_the_sum_over_levels(name: str, levels: int) -> None:
    """mean() = sum over x of x P(x)."""
    outputs = _grid(torch.float64)[..., : LIKELIHOODS[name].parameters]
    observation = _observe(name, outputs, levels)
    expected = (_pmf(observation, levels) * torch.arange(levels)).sum(1, keepdim=True)
    torch.testing.assert_close(observation.mean(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("u", [2.0**-33, 0.5, 1 - 2.0**-33])
@pytest.mark.parametrize(("name", "levels"), [("bernoulli", 2), ("discretized_logistic", 17), ("gaussian", None)])
def test_every_draw_lies_in_the_support(name: str, levels: int | None, u: float) -> None:
    """The smallest and the largest uniform of the noise give values that the likelihood itself accepts."""
    outputs = _grid(torch.float32).double()
    outputs = outputs[outputs[:, 0, 1] < 10][..., : LIKELIHOODS[name].parameters]
    x = _observe(name, outputs, levels).icdf(torch.full((len(outputs), 1), u, dtype=torch.float64))
    assert make_likelihood(name, (1,), levels).supports(x).all()


@given(st.floats(-50, 50), st.floats(-6, 4), st.floats(2.0**-33, 1 - 2.0**-33))
def test_icdf_of_a_gaussian_inverts_its_cdf(location: float, log_scale: float, u: float) -> None:
    """cdf(icdf(u)) = u, and the mean is the location."""
    observation = GaussianObservation(_double(location), _double(log_scale))
    x = float(observation.icdf(_double(u)))
    assert x == pytest.approx(stats.norm.ppf(u, location, math.exp(log_scale)), rel=1e-6, abs=1e-6)
    assert float(observation.mean()) == location


def test_double_is_the_same_distribution_with_float64_parameters() -> None:
    """Sums over event dimensions are float64: log_prob of float32 parameters agrees and has the wider type."""
    outputs = torch.tensor([[[0.3, -1.0]], [[-0.9, 0.5]]])
    for name, levels in (("bernoulli", None), ("gaussian", None), ("discretized_logistic", 17)):
        single = _observe(name, outputs[..., : LIKELIHOODS[name].parameters], levels)
        double = _at(single.double(), 1)
        assert double.dtype == torch.float64
        torch.testing.assert_close(double.float(), _at(single, 1))


@pytest.mark.parametrize(
    ("name", "levels", "inside", "outside"),
    [
        ("bernoulli", None, [0.0, 1.0], [0.5, -1.0, 2.0, math.nan, math.inf]),
        ("discretized_logistic", 17, [0.0, 7.0, 16.0], [-1.0, 0.5, 17.0, math.nan, math.inf, -math.inf]),
        ("discretized_logistic", 2, [0.0, 1.0], [2.0, 1e-7]),
        ("discretized_logistic_mixture", 17, [0.0, 7.0, 16.0], [-1.0, 0.5, 17.0, math.nan, math.inf, -math.inf]),
        ("categorical", 17, [0.0, 7.0, 16.0], [-1.0, 0.5, 17.0, math.nan, math.inf, -math.inf]),
        ("continuous_bernoulli", None, [0.0, 1e-9, 0.3, 1.0], [-1e-9, 1.0001, 2.0, math.nan, math.inf, -math.inf]),
        ("gaussian", None, [-1e30, 0.0, 0.1], [math.nan, math.inf, -math.inf]),
    ],
)
def test_the_support_is_what_the_likelihood_declares(
    name: str, levels: int | None, inside: list[float], outside: list[float]
) -> None:
    """Every value inside is accepted, every value outside refused, element by element."""
    likelihood = make_likelihood(name, (len(inside + outside),), levels)
    accepted = likelihood.supports(torch.tensor(inside + outside))
    assert accepted.tolist() == [True] * len(inside) + [False] * len(outside)
    assert likelihood.event_dims == len(inside + outside)


def test_integers_are_checked_like_floats() -> None:
    """uint8 pixels of a 17-level model end at 16."""
    pixels = torch.tensor([0, 16, 17, 255], dtype=torch.uint8)
    assert make_likelihood("discretized_logistic", (4,), 17).supports(pixels).tolist() == [True, True, False, False]
    assert make_likelihood("discretized_logistic", (4,), 17).support == "the integers 0 ... 16"
    assert make_likelihood("bernoulli", (4,), None).supports(pixels).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("name", "levels", "dtype"),
    [
        ("bernoulli", None, torch.uint8),
        ("discretized_logistic", 256, torch.uint8),
        ("discretized_logistic", 257, torch.float32),
        ("discretized_logistic_mixture", 256, torch.uint8),
        ("categorical", 256, torch.uint8),
        ("categorical", 257, torch.float32),
        ("continuous_bernoulli", None, torch.float32),
        ("gaussian", None, torch.float64),
    ],
)
def test_answers_have_the_narrowest_dtype_that_holds_the_support(
    name: str, levels: int | None, dtype: torch.dtype
) -> None:
    """Pixels travel as bytes."""
    assert make_likelihood(name, (3,), levels).dtype == dtype


def test_standardized_training_rows_have_mean_zero_and_deviation_one() -> None:
    """A Gaussian element is standardized by its own moments; a constant one keeps its units, whatever its value."""
    x = torch.randn(1001, 3, generator=torch.Generator().manual_seed(0)).double() * 7 + 3
    x[:, 1] = 0.1
    shift, scale = make_likelihood("gaussian", (3,), None).standardization(x)
    standardized = (x - shift) / scale
    torch.testing.assert_close(standardized.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(standardized.var(0, correction=0), _double(1, 0, 1))
    assert scale[1] == 1


def test_levels_are_standardized_to_the_interval_from_minus_one_to_one() -> None:
    """The range of the data, not the moments of the training rows, sets the units where the support is bounded."""
    for name, levels, top in (
        ("bernoulli", None, 1.0),
        ("continuous_bernoulli", None, 1.0),
        ("categorical", 17, 16.0),
        ("discretized_logistic", 17, 16.0),
        ("discretized_logistic_mixture", 17, 16.0),
    ):
        shift, scale = make_likelihood(name, (2,), levels).standardization(torch.zeros(3, 2))
        assert ((torch.tensor([0.0, top]) - shift) / scale).tolist() == [-1, 1]


def test_a_network_speaks_in_standardized_units() -> None:
    """Outputs (a, b) mean a location of shift + scale a and a deviation of scale exp(b), in data units."""
    outputs, x = _double(0.4, -1.2)[None, None, :], 5.0
    location, spread = 8 + 8 * 0.4, 8 * math.exp(-1.2)
    gaussian = make_likelihood("gaussian", (1,), None).observe(outputs, _double(8), _double(8))
    assert float(_at(gaussian, x)) == pytest.approx(stats.norm.logpdf(x, location, spread), rel=1e-12)
    logistic = make_likelihood("discretized_logistic", (1,), 17).observe(outputs, _double(8), _double(8))
    mass = np.diff(stats.logistic.cdf([x - 0.5, x + 0.5], location, spread))
    assert float(_at(logistic, x)) == pytest.approx(float(np.log(mass[0])), rel=1e-10)
    bernoulli = make_likelihood("bernoulli", (1,), None).observe(outputs[..., :1], _double(0.5), _double(0.5))
    assert float(_at(bernoulli, 1)) == pytest.approx(math.log(stats.logistic.cdf(0.4)), rel=1e-12)


@pytest.mark.parametrize("name", ["categorical", "discretized_logistic", "discretized_logistic_mixture"])
@pytest.mark.parametrize("levels", [None, 0, 1])
def test_a_pmf_over_levels_without_levels_is_refused(name: str, levels: int | None) -> None:
    """Fewer than two levels have no distribution over them."""
    with pytest.raises(ValueError, match=f"{name} needs levels >= 2, got {levels}"):
        make_likelihood(name, (1,), levels)


def test_an_unknown_likelihood_names_the_known_ones() -> None:
    """The message says what to write instead."""
    with pytest.raises(ValueError, match="unknown likelihood 'poisson': one of bernoulli, categorical, continuous_be"):
        make_likelihood("poisson", (1,), None)
