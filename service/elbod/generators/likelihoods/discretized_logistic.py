"""`discretized_logistic`: ordered levels, one bump an element."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from elbod.generators.likelihoods.base import LevelsLikelihood, Observation


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

    def survival(self, k: Tensor) -> Tensor:
        """P(x > k) for levels k < levels-1."""
        return _survival(k, self.location, torch.exp(-self.log_scale))

    def mean(self) -> Tensor:
        # E[x] = sum over k < levels-1 of P(x > k).
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
