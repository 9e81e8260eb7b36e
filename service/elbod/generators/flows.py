"""Normalizing flows as priors and posteriors: neural spline couplings (Durkan et al., "Neural spline flows", NeurIPS
2019), of the library zuko.

A flow is an invertible f with u = f(z): log p(z) = log p_base(f(z)) + log |det df/dz|. Couplings (two passes) invert as
fast as they run. They begin as the identity, so that training begins at the base distribution.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import zuko
from torch import Tensor, nn

from elbod.generators.posteriors import Posterior
from elbod.generators.priors import Prior


def coupling_flow(features: int, context: int, transforms: int, hidden: Sequence[int]) -> zuko.flows.Flow:
    """Spline couplings over `features` numbers, conditional on `context` numbers (0: on none), as the identity."""
    flow = zuko.flows.NSF(features, context, transforms=transforms, hidden_features=tuple(hidden), passes=2)
    for coupling in flow.transform.transforms:
        for parameter in coupling.hyper[-1].parameters():
            nn.init.zeros_(parameter)
    return flow


class Precisions:
    """A flow in the precision that it is trained in, and a copy in float64 where densities are evaluated in that."""

    def __init__(self, trained: zuko.flows.Flow) -> None:
        self._trained = trained
        self._double: zuko.flows.Flow | None = None

    def forget(self) -> None:
        """The weights have changed or moved."""
        self._double = None

    def of(self, dtype: torch.dtype) -> zuko.flows.Flow:
        if next(self._trained.parameters()).dtype == dtype:
            return self._trained
        if self._double is None:
            self._double = copy.deepcopy(self._trained).to(dtype).requires_grad_(False)
        return self._double


@dataclass(frozen=True)
class FlowPrior(Prior):
    """p(z) with u = f(z) ~ N(0, I); temperature scales u."""

    flow: Precisions
    dimensions: int

    @property
    def noise_dimensions(self) -> int:
        return self.dimensions

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        z: Tensor = self.flow.of(noise.dtype)().transform.inv(temperature * noise)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        u, log_det = self.flow.of(z.dtype)().transform.call_and_ladj(z)
        log_density: Tensor = log_det - 0.5 * (u**2 + math.log(2 * math.pi)).sum(-1)
        return log_density


@dataclass(frozen=True)
class FlowPosterior(Posterior):
    """q(z|x) with f(z; context(x)) ~ N(mean(x), diag(stddev(x)^2)); temperature scales the base's noise."""

    flow: Precisions
    mean: Tensor
    stddev: Tensor
    context: Tensor
    family: ClassVar[str] = "flow"
    closed_form: ClassVar[bool] = False

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "stddev": self.stddev, "context": self.context}

    def double(self) -> "FlowPosterior":
        return FlowPosterior(self.flow, self.mean.double(), self.stddev.double(), self.context.double())

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        u = self.mean + temperature * self.stddev * noise.to(self.mean.dtype)
        z: Tensor = self.flow.of(u.dtype)(self.context).transform.inv(u)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        u, log_det = self.flow.of(self.mean.dtype)(self.context).transform.call_and_ladj(z)
        standardized = (u - self.mean) / self.stddev
        log_density: Tensor = log_det - (0.5 * (standardized**2 + math.log(2 * math.pi)) + self.stddev.log()).sum(-1)
        return log_density
