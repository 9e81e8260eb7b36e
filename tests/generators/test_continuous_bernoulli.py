"""A continuous Bernoulli: a density on [0, 1], exact to rounding where the textbook formulas cancel or overflow.

The truths are mpmath with 150 digits, Gauss-Legendre quadrature, scipy's truncated exponential distribution, and
torch.distributions.ContinuousBernoulli where its clamped probabilities are accurate.
"""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from elbod.generators.likelihoods import ContinuousBernoulli, ContinuousBernoulliObservation, make_likelihood

SIZES = (0.0, 1e-30, 1e-8, 1e-3, 0.1, 0.4999999, 0.5, 0.5000001, 1.0, 3.0, 20.0, 200.0, math.exp(7))
LOGITS = tuple(sign * size for size in SIZES for sign in (-1.0, 1.0))
POINTS = (0.0, 1e-3, 0.25, 0.5, 0.8, 1.0)

logits_of = pytest.mark.parametrize("logit", LOGITS)
floats = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def _observation(logit: float, dtype: torch.dtype = torch.float64) -> ContinuousBernoulliObservation:
    return ContinuousBernoulliObservation(torch.tensor([logit], dtype=dtype))


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


many_digits = mpmath.workdps(150)


@many_digits
def _exact_log_prob(t: float, x: float) -> float:
    logit = mpmath.mpf(t)
    return float(logit * x - (mpmath.log(mpmath.expm1(logit) / logit) if t else 0))


@many_digits
def _exact_mean(t: float) -> float:
    logit = mpmath.mpf(t)
    return float(1 / (1 - mpmath.exp(-logit)) - 1 / logit) if t else 0.5


@many_digits
def _exact_cdf(t: float, x: float) -> float:
    logit = mpmath.mpf(t)
    return float(mpmath.expm1(logit * x) / mpmath.expm1(logit)) if t else x


@floats
@logits_of
def test_log_prob_mean_and_gradient_are_exact_to_rounding(logit: float, dtype: torch.dtype) -> None:
    """Also where t = 0, near it, at the change of formulas, and far out; d log p/dt = x - mean."""
    leaf = torch.tensor(logit, dtype=dtype, requires_grad=True)
    t, eps = float(leaf.detach()), torch.finfo(dtype).eps
    observation = ContinuousBernoulliObservation(leaf)
    assert float(observation.mean().detach()) == pytest.approx(_exact_mean(t), rel=0, abs=2 * eps)
    for point in torch.tensor(POINTS, dtype=dtype):
        log_prob = observation.log_prob(point)
        (gradient,) = torch.autograd.grad(log_prob, leaf)
        x = float(point)
        # What rounding t (x - e) costs, with e the heavier edge.
        tolerance = 4 * eps * max(1, abs(t) * abs(x - (t > 0)))
        assert log_prob.dtype == dtype
        assert float(log_prob.detach()) == pytest.approx(_exact_log_prob(t, x), rel=0, abs=tolerance)
        assert float(gradient) == pytest.approx(x - _exact_mean(t), rel=0, abs=4 * eps)


@pytest.mark.parametrize("logit", [0.0, 1e-8, -1e-8, 1e-3, -1e-3, 0.5, 20.0, -20.0, 200.0, -200.0])
def test_the_density_integrates_to_one(logit: float) -> None:
    """By Gauss and Legendre's rule with 200 nodes, as does its mean."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x, weight = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    density = _observation(logit).log_prob(x).exp()
    assert float((density * weight).sum()) == pytest.approx(1, abs=1e-12)
    assert float((density * weight * x).sum()) == pytest.approx(float(_observation(logit).mean()), abs=1e-12)


@pytest.mark.parametrize("logit", [-12.0, -3.0, -0.7, -0.2, 0.2, 0.6, 4.0, 12.0])
def test_torch_s_own_distribution_agrees(logit: float) -> None:
    """Outside of the neighbourhood of 1/2 where it is a Taylor expansion."""
    reference = torch.distributions.ContinuousBernoulli(logits=_double(logit))
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(_observation(logit).log_prob(x), reference.log_prob(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(_observation(logit).mean(), reference.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(_observation(logit).icdf(x), reference.icdf(x), rtol=1e-9, atol=1e-9)


@given(st.floats(1e-2, 1000), st.floats(2.0**-33, 1 - 2.0**-33))
def test_a_negative_logit_is_a_truncated_exponential_and_a_positive_one_its_mirror_image(size: float, u: float) -> None:
    """x ~ Exponential(|t|) given x <= 1, which scipy knows."""
    reference = stats.truncexpon(size, scale=1 / size)
    x = float(_observation(-size).icdf(_double(u)))
    assert x == pytest.approx(reference.ppf(u), rel=1e-9, abs=1e-12)
    assert float(_observation(-size).log_prob(_double(x))) == pytest.approx(reference.logpdf(x), abs=1e-9)
    assert float(_observation(size).icdf(_double(1 - u))) == pytest.approx(1 - x, abs=1e-15)


@given(st.one_of(st.floats(-1e-6, 1e-6), st.floats(-1100, 1100)), st.floats(2.0**-33, 1 - 2.0**-33))
def test_icdf_inverts_the_cdf(t: float, u: float) -> None:
    """F(x) = (exp(t x) - 1)/(exp(t) - 1) of icdf(u) is u, as far as the rounding of x lets it be."""
    x = float(_observation(t).icdf(_double(u)))
    assert 0 <= x <= 1
    assert _exact_cdf(t, x) == pytest.approx(u, rel=0, abs=4e-16 * max(1, abs(t)))


@floats
def test_everything_is_finite_however_extreme_the_logit(dtype: torch.dtype) -> None:
    """A certain decoder that is wrong is very wrong; nothing overflows, nor does its gradient."""
    values = [0.0, 1e-45, 1e-30, 1e-8, 0.5, 88.0, 89.0, 710.0, 1e4, 1e30]
    leaf = torch.tensor([*values, *(-value for value in values)], dtype=dtype, requires_grad=True)
    observation = ContinuousBernoulliObservation(leaf)
    for x in (0.0, 1e-3, 0.5, 1.0):
        log_prob = observation.log_prob(torch.tensor(x))
        assert torch.isfinite(log_prob).all()
        (gradient,) = torch.autograd.grad(log_prob.sum(), leaf)
        assert torch.isfinite(gradient).all()
    (gradient,) = torch.autograd.grad(observation.mean().sum(), leaf)
    assert torch.isfinite(gradient).all()
    for u in (2.0**-33, 0.5, 1 - 2.0**-33):
        x = observation.double().icdf(_double(u))
        assert make_likelihood("continuous_bernoulli", (1,), None).supports(x).all()
        assert make_likelihood("continuous_bernoulli", (1,), None).supports(x.float()).all()


def test_the_density_is_bounded() -> None:
    """Data on an edge, such as black pixels, cannot be worth more than log(e^7) = 7 nats an element."""
    likelihood = make_likelihood("continuous_bernoulli", (2,), None)
    half = torch.full((2,), 0.5)
    observation = likelihood.observe(torch.tensor([[[-1e9], [1e9]]]), half, half).double()
    torch.testing.assert_close(observation.log_prob(_double(0, 1)), _double(7, 7)[None], rtol=1e-6, atol=0)
    assert ContinuousBernoulli.max_logit == pytest.approx(math.exp(7))


def test_outputs_are_logits() -> None:
    """In no other units: sigmoid(output) is the parameter of the paper."""
    observation = make_likelihood("continuous_bernoulli", (1,), None).observe(_double(0.4)[None, None], *_double(3, 5))
    torch.testing.assert_close(observation.log_prob(_double(0.3)), _observation(0.4).log_prob(_double(0.3))[None])


def test_an_interval_has_no_levels() -> None:
    """A density's `levels` are None, also where the data's maximum suggests some."""
    assert make_likelihood("continuous_bernoulli", (1,), 2).levels is None


def test_double_is_the_same_distribution_with_float64_parameters() -> None:
    single = _observation(0.3, torch.float32)
    assert single.double().log_prob(_double(0.2)).dtype == torch.float64
    torch.testing.assert_close(single.double().log_prob(_double(0.2)).float(), single.log_prob(torch.tensor([0.2])))
