"""p(x|z) is a distribution: it sums or integrates to one, and is that of its draws."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from elbod.generators.chained import Chained
from elbod.generators.conformance.checked import Checked, Nonconforming, call, first
from elbod.generators.likelihoods import Observation
from elbod.generators.noise import Keys, Stream, uniforms

# How far from one the sum over all levels may be, and about how many probabilities are added up for it: many levels
# are summed for fewer draws, and beyond a byte's many at a time.
_SUM_TOLERANCE = 1e-9
_PROBABILITIES = 500_000
_ONE_BY_ONE = 256
_BLOCK = 100_000

# Probabilities between which a density is integrated, points of the rule, and how far the two may differ.
_QUANTILES = (0.2, 0.8)
_QUADRATURE_POINTS = 64
_INTEGRAL_TOLERANCE = 1e-4

# log_likelihood may add elements up otherwise than their sum does.
_SUM_ROUNDING = 1e-12


def check_likelihood(model: Checked) -> None:
    """Probabilities of all levels sum to one, densities integrate to what quantiles say, at latents of p and q."""
    z = torch.cat([model.prior_draws().z, model.draws(1)[1].z])
    labels = None if model.label is None else torch.cat([model.label, model.label])
    # Half of them from the prior, half from q(z|x).
    middle = slice(len(model) // 2, len(model) // 2 + len(model))
    latents, given = z[middle], None if labels is None else labels[middle]
    if model.generator.likelihood.measure == "pmf":
        _check_sums(model, latents, given)
    else:
        _check_integrals(model.decode(latents, given).double())


def check_levels(model: Checked) -> None:
    """Noise grows with the level, and what is believed of x at the top, the middle and level 0 is a distribution."""
    generator = model.generator
    if isinstance(generator, Chained):
        log_snr = model.tensor("log_snr", generator.log_snr, (generator.levels + 1,), torch.float64)
        if (level := first(log_snr.diff() >= 0)) is not None:
            raise Nonconforming(f"log_snr does not fall from level {level} to level {level + 1}: gamma must ascend")
    for level in sorted({0, generator.levels // 2, generator.levels}) if generator.levels else ():
        walk = model.prior_draws()
        assert walk.level is not None
        observation = model.observe(replace(walk, level=torch.full_like(walk.level, level))).double()
        if generator.likelihood.measure == "density":
            _check_integrals(observation)
            continue
        total = observation.log_levels().exp().sum(-1)
        for draw, wrong in enumerate(~((total - 1).abs() <= _SUM_TOLERANCE)):
            what = f"the probabilities of all levels of x[{{place}}] of draw {draw} at level {level}"
            _refuse_element(wrong, total[draw], f"{what} sum to {{value:.12g}}, not to 1")


def check_decoded(model: Checked) -> None:
    """Means, draws and log-densities have the shape of x; draws lie in the support; log p(x|z) is the sum."""
    model.prior()
    _, walk, _ = model.draws(1)
    model.log_likelihood("decode", model.decode(walk.z, model.label))
    observation = model.observe(walk)
    total = model.log_likelihood("observe", observation)
    elements = observation.double().log_prob(model.x).flatten(1)
    wrong = (total - elements.sum(-1)).abs() > _SUM_ROUNDING * (1 + elements.abs().sum(-1))
    if wrong.any():
        raise Nonconforming("log_likelihood of the distribution of observe is not the sum of its log_prob")
    shape = tuple(model.x.shape)
    model.tensor("mean of the distribution of observe", call("mean", observation.mean), shape, None)
    drawn = call("icdf", observation.double().icdf, _uniforms(model, len(model)))
    model.tensor("icdf of the distribution of observe", drawn, shape, None)
    if not model.generator.likelihood.supports(drawn).all():
        support = model.generator.likelihood.support
        raise Nonconforming(f"icdf of the distribution of observe draws outside the support, {support}")


def _check_sums(model: Checked, latents: Tensor, labels: Tensor | None) -> None:
    """The sum over all levels of P(x_i|z) is 1, and the level at u is the first whose cumulative sum reaches u."""
    likelihood = model.generator.likelihood
    levels, dims = likelihood.levels or 2, likelihood.event_dims
    # From the middle, where draws from the prior end and those from q(z|x) begin.
    count = min(len(latents), max(2, _PROBABILITIES // (levels * dims)))
    begin = (len(latents) - count) // 2
    step = 1 if levels <= _ONE_BY_ONE else max(1, _BLOCK // dims)
    us = _uniforms(model, len(latents))
    for draw in range(begin, begin + count):
        # One row of parameters for all levels: a network rounds equal rows of a batch differently.
        one = slice(draw, draw + 1)
        observation = model.decode(latents[one], None if labels is None else labels[one]).double()
        u = us[draw]
        drawn = observation.icdf(us[one])[0]
        total, below, at = (torch.zeros(likelihood.event_shape, dtype=u.dtype, device=u.device) for _ in range(3))
        for start in range(0, levels, step):
            level = torch.arange(start, min(start + step, levels), dtype=u.dtype, device=u.device)
            x = level.reshape(-1, *[1] * total.ndim).expand(-1, *total.shape)
            probability = observation.log_prob(x).exp()
            total += probability.sum(0)
            below += (probability * (x < drawn)).sum(0)
            at += (probability * (x <= drawn)).sum(0)
        what = f"the probabilities of all levels of x[{{place}}] of draw {draw}"
        wrong = ~((total - 1).abs() <= _SUM_TOLERANCE)
        _refuse_element(wrong, total, f"{what} sum to {{value:.12g}}, not to 1")
        wrong = ~((below <= u + _SUM_TOLERANCE) & (u <= at + _SUM_TOLERANCE))
        _refuse_element(wrong, drawn, f"icdf and log_prob differ: x[{{place}}] of draw {draw} is level {{value:g}}")


def _check_integrals(observation: Observation) -> None:
    """The probability between two quantiles is the integral of the density between them.

    This needs neither the scale nor the support of x, and ties the density to the sampler: a constant that is missing
    in `log_prob`, or a quantile function of another distribution, fails it.
    """
    like = observation.mean()
    low, high = (observation.icdf(torch.full_like(like, u)) for u in _QUANTILES)
    # Gauss-Legendre: exact for polynomials of degree 127, and densities are smooth between their quartiles.
    nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE_POINTS)
    total = torch.zeros_like(like)
    for node, weight in zip(nodes, weights, strict=True):
        x = low + (high - low) * (node + 1) / 2
        total += weight * observation.log_prob(x).exp() * (high - low) / 2
    expected = _QUANTILES[1] - _QUANTILES[0]
    for draw, wrong in enumerate(~((total - expected).abs() <= _INTEGRAL_TOLERANCE)):
        what = f"the density of x[{{place}}] of draw {draw}"
        _refuse_element(wrong, total[draw], f"{what} integrates to {{value:.6g}} between quantiles {expected:g} apart")


def _refuse_element(wrong: Tensor, values: Tensor, message: str) -> None:
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(int(wrong.int().argmax()), wrong.shape))
        raise Nonconforming(message.format(place=", ".join(map(str, place)), value=float(values[place])))


def _uniforms(model: Checked, count: int) -> Tensor:
    """A u for every element of `count` draws."""
    likelihood = model.generator.likelihood
    u = uniforms(Keys.of(1, np.arange(count)), Stream.OBSERVATION, likelihood.event_dims)
    return torch.from_numpy(u).reshape(count, *likelihood.event_shape).to(model.device)
