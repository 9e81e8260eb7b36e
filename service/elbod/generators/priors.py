"""Priors p(z)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from elbod.generators.posteriors import DiagonalNormal, FullNormal, Posterior


class Prior(ABC):
    """p(z) over d latent dimensions. Densities are in nats, summed over dimensions."""

    @abstractmethod
    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """z (n, d) from standard normal noise (n, d); temperature scales the randomness, 0 is the mean."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), (n,)."""

    @abstractmethod
    def expected_log_prob(self, q: Posterior) -> Tensor:
        """E_q[log p(z)] in closed form, (n,)."""

    @abstractmethod
    def kl(self, q: Posterior) -> Tensor:
        """KL(q || p) in closed form, (n,), by code that shares nothing with `expected_log_prob` and `entropy`."""

    @abstractmethod
    def kl_per_dimension(self, q: Posterior) -> Tensor | None:
        """KL(q || p) by latent dimension, (n, d); None where it does not separate."""


@dataclass(frozen=True)
class StandardNormal(Prior):
    """p(z) = N(0, I)."""

    dimensions: int

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return temperature * noise

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)

    def expected_log_prob(self, q: Posterior) -> Tensor:
        return -0.5 * (self.dimensions * math.log(2 * math.pi) + q.second_moment())

    def kl(self, q: Posterior) -> Tensor:
        if isinstance(q, FullNormal):
            zero = torch.zeros_like(q.mean[0])
            p = MultivariateNormal(zero, scale_tril=torch.eye(self.dimensions).to(zero), validate_args=False)
            return kl_divergence(q.distribution(), p)
        per_dimension = self.kl_per_dimension(q)
        assert per_dimension is not None
        return per_dimension.sum(-1)

    def kl_per_dimension(self, q: Posterior) -> Tensor | None:
        if not isinstance(q, DiagonalNormal):
            return None
        p = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean), validate_args=False)
        return kl_divergence(q.distribution(), p)
