"""`categorical`: levels without an order, or with one that is not assumed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from elbod.generators.likelihoods.base import LevelsLikelihood, Observation


@dataclass(frozen=True)
class CategoricalObservation(Observation):
    """P(x_i = k) = softmax(logits_i)_k; logits are (n, *event_shape, levels)."""

    logits: Tensor

    def double(self) -> "CategoricalObservation":
        return CategoricalObservation(self.logits.double())

    def log_prob(self, x: Tensor) -> Tensor:
        log_probabilities = torch.log_softmax(self.logits, -1)
        level, _ = torch.broadcast_tensors(x.long().unsqueeze(-1), log_probabilities[..., :1])
        return torch.take_along_dim(log_probabilities, level, -1).squeeze(-1)

    def log_levels(self) -> Tensor:
        return torch.log_softmax(self.logits, -1)

    def mean(self) -> Tensor:
        levels = torch.arange(self.logits.shape[-1], dtype=self.logits.dtype, device=self.logits.device)
        return (torch.softmax(self.logits, -1) * levels).sum(-1)

    def icdf(self, u: Tensor) -> Tensor:
        # The smallest k with P(x <= k) >= u. Divided by its own last value the cumulative sum ends at exactly 1, at the
        # first level after which nothing is added: no draw falls off the end or on a level that has no mass.
        cumulative = torch.softmax(self.logits, -1).cumsum(-1)
        cumulative = cumulative / cumulative[..., -1:]
        u = u.to(cumulative.dtype).expand(cumulative.shape[:-1]).unsqueeze(-1).contiguous()
        return torch.searchsorted(cumulative, u).squeeze(-1).to(self.logits.dtype)


class Categorical(LevelsLikelihood):
    """x_i in 0 ... levels-1, one parameter a level: few levels and much data."""

    name = "categorical"

    def __init__(self, event_shape: tuple[int, ...], levels: int | None) -> None:
        super().__init__(event_shape, levels)
        self.parameters = self._levels

    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> Observation:
        return CategoricalObservation(outputs)
