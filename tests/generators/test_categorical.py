"""A categorical element: any probabilities over its levels, and draws that never leave them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elbod.generators.likelihoods import LIKELIHOODS, CategoricalObservation, make_likelihood

LEVELS = (2, 17, 256)

levels_of = pytest.mark.parametrize("levels", LEVELS)
floats = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def _grid(levels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(n, 1, levels) logits: equal ones, spread ones, and ones so far apart that probabilities are zero."""
    generator = torch.Generator().manual_seed(levels)
    noise = torch.randn(12, 1, levels, generator=generator, dtype=torch.float64)
    factors = torch.tensor([0.0, 1e-6, 1.0, 1.0, 5.0, 30.0, 300.0, 1e4, 1e4, 1e9, 1e20, 1e30])[:, None, None]
    ramp = torch.linspace(-200, 200, levels, dtype=torch.float64)[None, None]
    return torch.cat([noise * factors, ramp, -ramp]).to(dtype)


def _observe(outputs: Tensor) -> CategoricalObservation:
    likelihood = make_likelihood("categorical", (1,), outputs.shape[-1])
    assert likelihood.parameters == outputs.shape[-1]
    observation = likelihood.observe(outputs, *likelihood.standardization(torch.zeros(2, 1)))
    assert isinstance(observation, CategoricalObservation)
    return observation


def _log_pmf(outputs: Tensor) -> Tensor:
    """(n, levels)."""
    observation = _observe(outputs)
    levels = range(outputs.shape[-1])
    return torch.cat([observation.log_prob(torch.full(outputs.shape[:2], float(k))) for k in levels], dim=1)


@levels_of
@floats
def test_a_categorical_sums_to_one_and_is_finite(levels: int, dtype: torch.dtype) -> None:
    """Over all levels, whatever the logits; a level without mass is exp(-1e30), never NaN."""
    log_pmf = _log_pmf(_grid(levels, dtype))
    assert log_pmf.dtype == dtype
    assert torch.isfinite(log_pmf).all()
    total = log_pmf.exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


@levels_of
def test_log_prob_is_the_softmax(levels: int) -> None:
    """As torch.distributions has it, for bytes as for floats, and for one row against many latents."""
    outputs = _grid(levels)[:6]
    x = torch.tensor([0, 1, 1, 0, levels - 1, levels // 2], dtype=torch.uint8)[:, None]
    expected = torch.distributions.Categorical(logits=outputs).log_prob(x)
    torch.testing.assert_close(_observe(outputs).log_prob(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(_observe(outputs).log_prob(x[3]), _observe(outputs).log_prob(x[3:4].expand(6, 1)))


@levels_of
def test_the_mean_is_the_sum_over_levels(levels: int) -> None:
    """mean() = sum over k of k P(k)."""
    outputs = _grid(levels)
    expected = (_log_pmf(outputs).exp() * torch.arange(levels)).sum(1, keepdim=True)
    torch.testing.assert_close(_observe(outputs).mean(), expected, rtol=1e-12, atol=1e-12)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=40), st.floats(2.0**-33, 1 - 2.0**-33))
def test_icdf_is_the_smallest_level_that_the_cumulative_probability_reaches(logits: list[float], u: float) -> None:
    """F(x - 1) < u <= F(x), to rounding."""
    outputs = torch.tensor(logits, dtype=torch.float64)[None, None]
    x = int(_observe(outputs).icdf(torch.tensor([[u]], dtype=torch.float64)))
    cumulative = [0.0, *_log_pmf(outputs)[0].exp().cumsum(0).tolist()]
    assert cumulative[x] - 1e-14 < u <= cumulative[x + 1] + 1e-14


@levels_of
@floats
def test_every_draw_has_mass(levels: int, dtype: torch.dtype) -> None:
    """Uniforms up to 1 itself, above where a rounded cumulative sum may end, draw levels with a probability."""
    outputs = _grid(levels, dtype)
    for u in (2.0**-33, 0.5, 1 - 2.0**-33, 1.0):
        x = _observe(outputs).icdf(torch.full((len(outputs), 1), u, dtype=torch.float64))
        assert make_likelihood("categorical", (1,), levels).supports(x).all()
        assert (_observe(outputs).log_prob(x) > -110).all()


@levels_of
def test_gradients_are_finite(levels: int) -> None:
    """In float32, at the extremes."""
    for k in (0, levels // 2, levels - 1):
        leaf = _grid(levels, torch.float32).requires_grad_()
        (gradient,) = torch.autograd.grad(_observe(leaf).log_prob(torch.full((len(leaf), 1), k)).sum(), leaf)
        assert torch.isfinite(gradient).all()


def test_double_is_the_same_distribution_with_float64_parameters() -> None:
    single = _observe(torch.tensor([[[0.3, -1.0, 2.0]]]))
    one = torch.tensor([[1]])
    assert single.double().log_prob(one).dtype == torch.float64
    torch.testing.assert_close(single.double().log_prob(one).float(), single.log_prob(one))


def test_the_number_of_parameters_is_an_instance_s_own() -> None:
    """Two models of different levels live in one process."""
    assert [make_likelihood("categorical", (1,), levels).parameters for levels in (3, 9, 3)] == [3, 9, 3]
    assert "parameters" not in vars(LIKELIHOODS["categorical"])
