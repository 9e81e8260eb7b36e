"""`bernoulli`: bits."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from elbod.generators.likelihoods.base import Likelihood, Measure, Observation


@dataclass(frozen=True)
class BernoulliObservation(Observation):
    """P(x_i = 1) = sigmoid(logits_i)."""

    logits: Tensor

    def double(self) -> "BernoulliObservation":
        return BernoulliObservation(self.logits.double())

    def log_prob(self, x: Tensor) -> Tensor:
        # torch.distributions.Bernoulli's formula, which is exact on {0, 1} for every logit.
        return F.binary_cross_entropy_with_logits(self.logits, x.to(self.logits.dtype), reduction="none").neg_()

    def log_levels(self) -> Tensor:
        return torch.stack([F.logsigmoid(-self.logits), F.logsigmoid(self.logits)], -1)

    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def icdf(self, u: Tensor) -> Tensor:
        return (u > torch.sigmoid(-self.logits)).to(self.logits.dtype)


class Bernoulli(Likelihood):
    """x_i in {0, 1}."""

    name = "bernoulli"
    measure: ClassVar[Measure] = "pmf"
    parameters = 1

    def __init__(self, event_shape: tuple[int, ...], levels: int | None) -> None:
        # Two, whatever the data were before they became binary.
        super().__init__(event_shape, 2)

    @property
    def support(self) -> str:
        return "{0, 1}"

    def supports(self, x: Tensor) -> Tensor:
        return (x == 0) | (x == 1)

    def standardization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.full(self.event_shape, 0.5)
        return half, half.clone()

    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> Observation:
        return BernoulliObservation(outputs[..., 0])
