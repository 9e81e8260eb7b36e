"""`gaussian`: real numbers."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Normal

from elbod.generators.likelihoods.base import Likelihood, Measure, Observation


@dataclass(frozen=True)
class GaussianObservation(Observation):
    """x_i ~ N(location, exp(log_scale)^2)."""

    location: Tensor
    log_scale: Tensor

    def double(self) -> "GaussianObservation":
        return GaussianObservation(self.location.double(), self.log_scale.double())

    def log_prob(self, x: Tensor) -> Tensor:
        standardized = (x - self.location) * torch.exp(-self.log_scale)
        return -0.5 * standardized**2 - self.log_scale - 0.5 * math.log(2 * math.pi)

    def mean(self) -> Tensor:
        return self.location

    def icdf(self, u: Tensor) -> Tensor:
        quantile: Tensor = Normal(self.location, self.log_scale.exp(), validate_args=False).icdf(u)
        return quantile


class Gaussian(Likelihood):
    """x_i real, with a learned scale; a density, so its log may be positive and has no bits per dimension."""

    name = "gaussian"
    measure: ClassVar[Measure] = "density"
    parameters = 2

    # Standard deviations below e^-7 of the data's are not modelled: a density without a floor is unbounded.
    min_log_scale: ClassVar[float] = -7.0

    @property
    def dtype(self) -> torch.dtype:
        """float64: a column of a table may need more digits than float32 has."""
        return torch.float64

    @property
    def support(self) -> str:
        return "the real numbers"

    def supports(self, x: Tensor) -> Tensor:
        return torch.isfinite(x)

    def standardization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = x.double()
        scale = values.std(0, correction=0)
        # A constant element keeps its units.
        return values.mean(0), torch.where(scale > 0, scale, 1.0)

    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> Observation:
        location = shift + scale * outputs[..., 0]
        log_scale = outputs[..., 1].clamp(min=self.min_log_scale) + scale.log()
        return GaussianObservation(location, log_scale.expand_as(location))
