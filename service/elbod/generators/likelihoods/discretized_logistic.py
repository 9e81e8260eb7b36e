"""`discretized_logistic`: ordered levels, one bump an element."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from elbod.generators.likelihoods.base import LevelsLikelihood, Observation

# Up to a byte's levels a mean is summed level by level.
_SUMMED_LEVELS = 256
# Scales, in levels, from which on the sum over levels is taken for smooth; below, levels this far from the location
# are on one side of it up to exp(-37).
_SMOOTH_SCALE = 4.0
_WINDOW = 150
# B_n(1/2) / n! for n = 2, 4, 6, 8, by the Bernoulli polynomials.
_MIDPOINT = (-1 / 24, 7 / 5760, -31 / 967680, 127 / 154828800)


@dataclass(frozen=True)
class DiscretizedLogisticObservation(Observation):
    """A logistic distribution integrated over unit bins around 0 ... levels-1, the two edge bins closed.

    With a = (x - 1/2 - location)/s and b = (x + 1/2 - location)/s, P(x) = sigmoid(b) - sigmoid(a), where a is
    -infinity at x = 0 and b is +infinity at x = levels-1 (Kingma et al., NeurIPS 2016; Salimans et al., ICLR 2017).
    """

    location: Tensor
    log_scale: Tensor
    levels: int

    def double(self) -> "DiscretizedLogisticObservation":
        return DiscretizedLogisticObservation(self.location.double(), self.log_scale.double(), self.levels)

    def log_prob(self, x: Tensor) -> Tensor:
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(-(b - a))), b - a = 1/s: no cancellation anywhere.
        x = x.to(self.location.dtype)
        inverse_scale = torch.exp(-self.log_scale)
        centered = (x - self.location) * inverse_scale
        not_top, not_bottom = x < self.levels - 1, x > 0
        zero = torch.zeros((), dtype=centered.dtype, device=centered.device)
        upper = torch.where(not_top, F.logsigmoid(centered + 0.5 * inverse_scale), zero)
        lower = torch.where(not_bottom, F.logsigmoid(0.5 * inverse_scale - centered), zero)
        width = torch.where(not_top & not_bottom, torch.log(-torch.expm1(-inverse_scale)), zero)
        return upper + lower + width

    def log_levels(self) -> Tensor:
        # Levels k and k + 1 share the edge t_k = (k + 1/2 - location)/s: log sigmoid(-t) = log sigmoid(t) - t.
        inverse_scale = torch.exp(-self.log_scale).unsqueeze(-1)
        edges = torch.arange(self.levels - 1, dtype=inverse_scale.dtype, device=inverse_scale.device) + 0.5
        t = (edges - self.location.unsqueeze(-1)) * inverse_scale
        below = F.logsigmoid(t)
        found = F.pad(below, (0, 1)) + F.pad(below - t, (1, 0))
        found[..., 1:-1] += torch.log(-torch.expm1(-inverse_scale))
        return found

    def survival(self, k: Tensor) -> Tensor:
        """P(x > k) for levels k < levels-1."""
        return _survival(k, self.location, torch.exp(-self.log_scale))

    def mean(self) -> Tensor:
        # E[x] = sum over k < levels-1 of P(x > k).
        if self.levels > _SUMMED_LEVELS:
            return _mean_of_many_levels(self.location, self.log_scale.exp(), self.levels)
        total = torch.zeros_like(self.location)
        inverse_scale = torch.exp(-self.log_scale)
        for k in range(self.levels - 1):
            total += _survival(k, self.location, inverse_scale)
        return total

    def icdf(self, u: Tensor) -> Tensor:
        # The smallest k with sigmoid((k + 1/2 - location)/s) >= u.
        quantile = self.location + self.log_scale.exp() * torch.logit(u)
        return torch.ceil(quantile - 0.5).clamp(0, self.levels - 1)


def _survival(k: Tensor | int, location: Tensor, inverse_scale: Tensor) -> Tensor:
    """P(x > k) = sigmoid((location - k - 1/2)/s)."""
    return torch.sigmoid((location - (k + 0.5)) * inverse_scale)


def _mean_of_many_levels(location: Tensor, scale: Tensor, levels: int) -> Tensor:
    """sum over k = 0 ... levels-2 of sigmoid((location - k - 1/2)/s), in a time that does not grow with the levels.

    Where s is large the sum is the integral from 0 to levels-1 and the first terms of the Euler-Maclaurin formula for
    midpoints, which leaves a relative error of 1e-11 or less. Where it is small all but some levels around the location
    count as 1 or 0.
    """
    total = _midpoint_sum(location, scale.clamp(min=_SMOOTH_SCALE), levels - 1)
    if not (narrow := scale < _SMOOTH_SCALE).any():
        return total
    first = torch.floor(location) - _WINDOW
    near = first.clamp(0, levels - 1)
    for offset in range(2 * _WINDOW):
        k = first + offset
        near += torch.where((k >= 0) & (k < levels - 1), _survival(k, location, 1 / scale), 0.0)
    return torch.where(narrow, near, total)


def _midpoint_sum(location: Tensor, scale: Tensor, top: int) -> Tensor:
    """f(1/2) + f(3/2) + ... + f(top - 1/2) of f(t) = sigmoid((location - t)/s)."""
    start, end, length = location / scale, (location - top) / scale, top / scale
    # The integral is s (softplus(start) - softplus(end)), which cancels where both are close.
    short = length < 1
    integral = scale * torch.where(
        short,
        torch.log1p(torch.sigmoid(end) * torch.expm1(length.clamp(max=1))),
        F.softplus(start, threshold=40) - F.softplus(end, threshold=40),
    )
    # Odd derivatives of the sigmoid are polynomials in v = sigmoid (1 - sigmoid).
    for sign, at in ((1, start), (-1, end)):
        v = torch.sigmoid(at) * torch.sigmoid(-at)
        derivatives = (v, v * (1 - 6 * v), v * (1 - 30 * v + 120 * v**2), v * (1 - 126 * v + 1680 * v**2 - 5040 * v**3))
        for power, (coefficient, derivative) in enumerate(zip(_MIDPOINT, derivatives, strict=True)):
            integral = integral + sign * coefficient * derivative / scale ** (2 * power + 1)
    return integral


class DiscretizedLogistic(LevelsLikelihood):
    """x_i in 0 ... levels-1, ordered: pixels and counts with a top."""

    name = "discretized_logistic"
    parameters = 2

    # Scales below e^-7 of half the range put all mass on one level already, those above e^7 on the two edges; beyond,
    # the mass of a level between underflows to log 0.
    min_log_scale: ClassVar[float] = -7.0
    max_log_scale: ClassVar[float] = 7.0

    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> DiscretizedLogisticObservation:
        location = shift + scale * outputs[..., 0]
        log_scale = outputs[..., 1].clamp(self.min_log_scale, self.max_log_scale) + scale.log()
        return DiscretizedLogisticObservation(location, log_scale, self._levels)
