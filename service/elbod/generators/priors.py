"""Priors p(z)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal, kl_divergence

from elbod.generators.posteriors import ClosedFormPosterior, DiagonalNormal, FullNormal, Posterior, choose
from elbod.generators.terms import ClosedForm


class Prior(ABC):
    """p(z) over d latent dimensions. Densities are in nats, summed over dimensions."""

    @property
    @abstractmethod
    def noise_dimensions(self) -> int:
        """How many standard normals one draw takes."""

    @abstractmethod
    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """z (n, d) from standard normal noise (n, noise_dimensions); temperature (n, 1) scales the randomness."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), (n,)."""

    def closed_kl(self, q: Posterior) -> Tensor | None:
        """KL(q || p) in closed form, (n,); None where it has to be sampled."""
        return None

    def closed_form(self, q: Posterior) -> ClosedForm[Tensor] | None:
        """The terms of the bound that do not involve x in closed form; None where they have to be sampled."""
        return None


class ClosedFormPrior(Prior):
    """A prior whose expectations under the family's q are known exactly."""

    @abstractmethod
    def expected_log_prob(self, q: ClosedFormPosterior) -> Tensor:
        """E_q[log p(z)] in closed form, (n,)."""

    @abstractmethod
    def kl(self, q: ClosedFormPosterior) -> Tensor:
        """KL(q || p) in closed form, (n,), by code that shares nothing with `expected_log_prob` and `entropy`."""

    @abstractmethod
    def kl_per_dimension(self, q: ClosedFormPosterior) -> Tensor | None:
        """KL(q || p) by latent dimension, (n, d); None where it does not separate."""

    def closed_kl(self, q: Posterior) -> Tensor | None:
        return self.kl(q) if isinstance(q, ClosedFormPosterior) else None

    def closed_form(self, q: Posterior) -> ClosedForm[Tensor] | None:
        if not isinstance(q, ClosedFormPosterior):
            return None
        per_dimension = self.kl_per_dimension(q)
        kl = self.kl(q) if per_dimension is None else per_dimension.sum(-1)
        return ClosedForm(kl, self.expected_log_prob(q), q.entropy(), per_dimension)


@dataclass(frozen=True)
class StandardNormal(ClosedFormPrior):
    """p(z) = N(0, I); temperature 0 is the mean."""

    dimensions: int

    @property
    def noise_dimensions(self) -> int:
        return self.dimensions

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return temperature * noise

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)

    def expected_log_prob(self, q: ClosedFormPosterior) -> Tensor:
        return -0.5 * (self.dimensions * math.log(2 * math.pi) + q.second_moment())

    def kl(self, q: ClosedFormPosterior) -> Tensor:
        if isinstance(q, FullNormal):
            zero = torch.zeros_like(q.mean[0])
            p = MultivariateNormal(zero, scale_tril=torch.eye(self.dimensions).to(zero), validate_args=False)
            return kl_divergence(q.distribution(), p)
        per_dimension = self.kl_per_dimension(q)
        assert per_dimension is not None
        return per_dimension.sum(-1)

    def kl_per_dimension(self, q: ClosedFormPosterior) -> Tensor | None:
        if not isinstance(q, DiagonalNormal):
            return None
        # (mean^2 + variance - 1 - log variance)/2, added up in the order of torch.distributions.
        variance = q.stddev**2
        return 0.5 * (variance + q.mean**2 - 1 - variance.log())


@dataclass(frozen=True)
class NormalMixture(Prior):
    """p(z) = 1/K sum over k of N(mean_k, diag(stddev_k^2)); mean and stddev are (K, d).

    The VampPrior (Tomczak and Welling, "VAE with a VampPrior", AISTATS 2018) when the components are q(z|u_k) of
    learned pseudo-inputs. Temperature scales the components' standard deviations, not the choice among them.
    """

    mean: Tensor
    stddev: Tensor

    @property
    def noise_dimensions(self) -> int:
        """One for each dimension, and one whose cumulative probability chooses the component."""
        return self.mean.shape[1] + 1

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        count, d = self.mean.shape
        chosen = (torch.special.ndtr(noise[:, d].double()) * count).long().clamp(max=count - 1)
        return self.mean[chosen] + temperature * self.stddev[chosen] * noise[:, :d]

    def log_prob(self, z: Tensor) -> Tensor:
        # sum_i (z_i - m_i)^2 / s_i^2 expanded into matrix products, (n, K); float64 because the terms cancel.
        z, mean, precision = z.double(), self.mean.double(), self.stddev.double() ** -2
        mahalanobis = (z**2) @ precision.mT - 2 * z @ (mean * precision).mT + (mean**2 * precision).sum(1)
        log_normalizer = 0.5 * (precision.log() - math.log(2 * math.pi)).sum(1)
        count = len(mean)
        return torch.logsumexp(log_normalizer - 0.5 * mahalanobis, dim=1) - math.log(count)


@dataclass(frozen=True)
class CategoricalPrior(ClosedFormPrior):
    """p(z = k) = exp(log_probs_k); log_probs is (K,). Temperature: weights ~ p^(1/T), 0 is the largest."""

    log_probs: Tensor

    @property
    def noise_dimensions(self) -> int:
        return 1

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return choose(self.log_probs, noise, temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_probs[z[:, 0].long()]

    def expected_log_prob(self, q: ClosedFormPosterior) -> Tensor:
        return q.parameters["log_probs"].exp().double() @ self.log_probs.double()

    def kl(self, q: ClosedFormPosterior) -> Tensor:
        p = Categorical(logits=self.log_probs, validate_args=False)
        return kl_divergence(Categorical(logits=q.parameters["log_probs"], validate_args=False), p)

    def kl_per_dimension(self, q: ClosedFormPosterior) -> Tensor | None:
        return self.kl(q)[:, None]
