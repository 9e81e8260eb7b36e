"""`continuous_bernoulli`: numbers between 0 and 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from elbod.generators.likelihoods.base import Likelihood, Measure, Observation

# Below |logits| = 1/2 the closed forms subtract nearly equal numbers. There
#     log(sinh(t/2) / (t/2)) = sum over n of B_2n t^2n / (2n (2n)!),   B: the Bernoulli numbers,
# and seven terms leave a remainder under 1e-18.
_NEAR = 0.5
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
_LOG_SINHC = tuple(b / (2 * n * math.factorial(2 * n)) for n, b in enumerate(_BERNOULLI, 1))
_SLOPE = tuple(2 * n * c for n, c in enumerate(_LOG_SINHC, 1))


def _polynomial(coefficients: Sequence[float], t: Tensor) -> Tensor:
    """c_0 + c_1 t + c_2 t^2 + ... by Horner's rule."""
    total = torch.zeros_like(t)
    for coefficient in reversed(coefficients):
        total = total * t + coefficient
    return total


@dataclass(frozen=True)
class ContinuousBernoulliObservation(Observation):
    """p(x) = exp(t x) t/(exp(t) - 1) on [0, 1], and 1 for t = 0, with t the logits: an exponential cut at both edges.

    With l = sigmoid(t) it is proportional to l^x (1 - l)^(1 - x) (Loaiza-Ganem and Cunningham, "The continuous
    Bernoulli: fixing a pervasive error in variational autoencoders", NeurIPS 2019). The mean is not l.
    """

    logits: Tensor

    def double(self) -> "ContinuousBernoulliObservation":
        return ContinuousBernoulliObservation(self.logits.double())

    def log_prob(self, x: Tensor) -> Tensor:
        # With the heavier edge e of the interval, log p(x) = t (x - e) + log(|t| / (1 - exp(-|t|))); nearer to the
        # uniform distribution, from the middle, log p(x) = t (x - 1/2) - log(sinh(t/2) / (t/2)).
        near, small, size = self._regimes()
        peak = torch.where(near, 0.5, (self.logits > 0).to(self.logits.dtype))
        square = small**2
        log_peak = torch.where(near, -square * _polynomial(_LOG_SINHC, square), torch.log(size / -torch.expm1(-size)))
        return self.logits * (x.to(self.logits.dtype) - peak) + log_peak

    def mean(self) -> Tensor:
        # 1/(1 - exp(-t)) - 1/t. From the heavier edge, 1/|t| - 1/(exp(|t|) - 1); near t = 0 the series' derivative.
        near, small, size = self._regimes()
        from_edge = 1 / size + torch.exp(-size) / torch.expm1(-size)
        far = torch.where(self.logits > 0, 1 - from_edge, from_edge)
        return torch.where(near, 0.5 + small * _polynomial(_SLOPE, small**2), far)

    def icdf(self, u: Tensor) -> Tensor:
        # log(1 + u (exp(t) - 1)) / t for t < 0, and its mirror image for t > 0, which never overflows.
        rising = self.logits > 0
        size = self.logits.abs()
        uniform = size < torch.finfo(size.dtype).eps
        size = torch.where(uniform, 1.0, size)
        v = torch.where(rising, 1 - u, u)
        from_edge = (-torch.log1p(v * torch.expm1(-size)) / size).clamp(0, 1)
        return torch.where(uniform, u, torch.where(rising, 1 - from_edge, from_edge))

    def _regimes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Whether t is near 0; t where it is, else 0; |t| where it is not, else 1: both forms stay finite everywhere,
        and so do their gradients."""
        near = self.logits.abs() < _NEAR
        return near, torch.where(near, self.logits, 0.0), torch.where(near, 1.0, self.logits.abs())


class ContinuousBernoulli(Likelihood):
    """x_i in [0, 1]; a density, so its log may be positive and has no bits per dimension."""

    name = "continuous_bernoulli"
    measure: ClassVar[Measure] = "density"
    parameters = 1

    # Exponential tails shorter than e^-7 of the interval are not modelled: a density without a floor is unbounded.
    max_logit: ClassVar[float] = math.exp(7)

    def __init__(self, event_shape: tuple[int, ...], levels: int | None) -> None:
        # An interval has no levels, whatever number of them the data have.
        super().__init__(event_shape, None)

    @property
    def support(self) -> str:
        return "the interval [0, 1]"

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= 1)

    def standardization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.full(self.event_shape, 0.5)
        return half, half.clone()

    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> Observation:
        return ContinuousBernoulliObservation(outputs[..., 0].clamp(-self.max_logit, self.max_logit))
