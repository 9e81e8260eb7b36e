"""`discretized_logistic_mixture`: ordered levels, several bumps an element."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from elbod.generators.likelihoods.base import LevelsLikelihood, Observation
from elbod.generators.likelihoods.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticObservation


@dataclass(frozen=True)
class DiscretizedLogisticMixtureObservation(Observation):
    """P(x) = sum over m of w_m P_m(x), w = softmax(logits), P_m discretized logistics (Salimans et al., ICLR 2017).

    Unlike in that paper the channels of a pixel are elements like any other: independent given z. `logits` and the
    parameters of `components` are (n, *event_shape, M).
    """

    logits: Tensor
    components: DiscretizedLogisticObservation

    def double(self) -> "DiscretizedLogisticMixtureObservation":
        return DiscretizedLogisticMixtureObservation(self.logits.double(), self.components.double())

    def log_prob(self, x: Tensor) -> Tensor:
        log_weights = torch.log_softmax(self.logits, -1)
        return torch.logsumexp(log_weights + self.components.log_prob(x.unsqueeze(-1)), -1)

    def log_levels(self) -> Tensor:
        # Of a component (n, *event_shape, M, levels).
        log_weights = torch.log_softmax(self.logits, -1)
        return torch.logsumexp(log_weights.unsqueeze(-1) + self.components.log_levels(), -2)

    def mean(self) -> Tensor:
        return (torch.softmax(self.logits, -1) * self.components.mean()).sum(-1)

    def icdf(self, u: Tensor) -> Tensor:
        # The smallest k with P(x <= k) >= u, which is P(x > k) <= 1 - u, by bisection: `high` always has that property,
        # the top by definition.
        weights, rest = torch.softmax(self.logits, -1), 1 - u
        top = self.components.levels - 1
        low, high = torch.zeros_like(u), torch.full_like(u, top)
        for _ in range(top.bit_length()):
            middle = torch.floor((low + high) / 2)
            reached = (weights * self.components.survival(middle.unsqueeze(-1))).sum(-1) <= rest
            low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
        return high


class DiscretizedLogisticMixture(LevelsLikelihood):
    """x_i in 0 ... levels-1, ordered: pixels that are dark or bright but seldom between.

    The number of components is part of what the name means. The shape of a network's last layer follows from it, so
    weights of another number never load.
    """

    name = "discretized_logistic_mixture"
    components: ClassVar[int] = 5
    parameters = 3 * components

    def __init__(self, event_shape: tuple[int, ...], levels: int | None) -> None:
        super().__init__(event_shape, levels)
        self._component = DiscretizedLogistic(event_shape, levels)

    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> Observation:
        # A component has a logit, a location and a log-scale.
        outputs = outputs.unflatten(-1, (self.components, 3))
        components = self._component.observe(outputs[..., 1:], shift.unsqueeze(-1), scale.unsqueeze(-1))
        return DiscretizedLogisticMixtureObservation(outputs[..., 0], components)
