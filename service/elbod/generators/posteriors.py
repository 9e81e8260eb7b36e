"""Approximate posteriors q(z|x): torch distributions drawn from given noise, so that who computes does not matter."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

# exp(-7) ... exp(3): q neither collapses to a point nor leaves float32's comfortable range.
_MIN_LOG_STDDEV, _MAX_LOG_STDDEV = -7.0, 3.0
_HALF_LOG_2PI = math.log(math.sqrt(2 * math.pi))


class Posterior(ABC):
    """q(z|x) for n rows over d latent dimensions.

    `parameters` are row-wise tensors (n, ...); `closed_form` says whether they describe q to a reader, who otherwise
    gets draws with their log q. All log-densities are in nats, summed over latent dimensions.
    """

    family: ClassVar[str]
    closed_form: ClassVar[bool] = True

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Tensor]: ...

    @property
    def shared(self) -> dict[str, Tensor]:
        """Parameters that all rows have in common."""
        return {}

    @property
    @abstractmethod
    def noise_dimensions(self) -> int:
        """How many standard normals one draw takes."""

    @abstractmethod
    def double(self) -> "Posterior":
        """The same distribution with float64 parameters: densities are evaluated there."""

    @abstractmethod
    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """z = mean + temperature * scale noise, (n, d), for standard normals (n, noise_dimensions)."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x), (n,)."""


class ClosedFormPosterior(Posterior):
    """A posterior whose entropy and moments are known exactly."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """H[q] in closed form, (n,); a differential entropy, which may be negative."""

    @abstractmethod
    def second_moment(self) -> Tensor:
        """E_q[z'z], (n,)."""


@dataclass(frozen=True)
class DiagonalNormal(ClosedFormPosterior):
    """q(z|x) = N(mean, diag(stddev^2)); mean and stddev are (n, d)."""

    mean: Tensor
    stddev: Tensor
    family = "normal"

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "stddev": self.stddev}

    @property
    def noise_dimensions(self) -> int:
        return self.mean.shape[-1]

    def double(self) -> "DiagonalNormal":
        return DiagonalNormal(self.mean.double(), self.stddev.double())

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return self.mean + temperature * self.stddev * noise

    def log_prob(self, z: Tensor) -> Tensor:
        # torch.distributions.Normal's formula without the object, whose making takes longer than a tile's arithmetic.
        square = (z - self.mean) ** 2
        return (square / (-2 * self.stddev**2) - self.stddev.log() - _HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        return (self.stddev.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def second_moment(self) -> Tensor:
        return (self.mean**2 + self.stddev**2).sum(-1)


@dataclass(frozen=True)
class FullNormal(ClosedFormPosterior):
    """q(z|x) = N(mean, L L'): mean (n, d); the Cholesky factor `scale_tril` (d, d) is shared by all rows."""

    mean: Tensor
    scale_tril: Tensor
    family = "multivariate_normal"

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The mean, and the marginal standard deviations sqrt((L L')_ii)."""
        return {"mean": self.mean, "stddev": self.scale_tril.norm(dim=-1).expand_as(self.mean)}

    @property
    def shared(self) -> dict[str, Tensor]:
        return {"scale_tril": self.scale_tril}

    @property
    def noise_dimensions(self) -> int:
        return self.mean.shape[-1]

    def double(self) -> "FullNormal":
        return FullNormal(self.mean.double(), self.scale_tril.double())

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return self.mean + temperature * (noise.to(self.scale_tril.dtype) @ self.scale_tril.mT)

    def log_prob(self, z: Tensor) -> Tensor:
        log_density: Tensor = self.distribution().log_prob(z)
        return log_density

    def entropy(self) -> Tensor:
        d = self.mean.shape[-1]
        log_det = 2 * self.scale_tril.diagonal().log().sum()
        return (0.5 * (d * math.log(2 * math.pi * math.e) + log_det)).expand(self.mean.shape[0])

    def second_moment(self) -> Tensor:
        return (self.mean**2).sum(-1) + (self.scale_tril**2).sum()

    def distribution(self) -> MultivariateNormal:
        """For torch.distributions' closed forms."""
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril, validate_args=False)


@dataclass(frozen=True)
class CategoricalPosterior(ClosedFormPosterior):
    """q(z = k|x) = exp(log_probs_k); log_probs is (n, K), and z is (n, 1), the number of the component."""

    log_probs: Tensor
    family = "categorical"

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"log_probs": self.log_probs}

    @property
    def noise_dimensions(self) -> int:
        return 1

    def double(self) -> "CategoricalPosterior":
        return CategoricalPosterior(self.log_probs.double())

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """The component at the cumulative probability of the noise (n, 1), of weights ~ q^(1/temperature)."""
        return choose(self.log_probs, noise, temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        log_density: Tensor = self.log_probs.gather(-1, z.long())[:, 0]
        return log_density

    def entropy(self) -> Tensor:
        # p log p -> 0 as p -> 0.
        surprise: Tensor = torch.special.entr(self.log_probs.exp())
        return surprise.sum(-1)

    def second_moment(self) -> Tensor:
        index = torch.arange(self.log_probs.shape[-1], device=self.log_probs.device)
        return (self.log_probs.exp() * index**2).sum(-1)


def positive_stddev(log_stddev: Tensor) -> Tensor:
    """exp of a network's output, kept within its limits."""
    return log_stddev.clamp(_MIN_LOG_STDDEV, _MAX_LOG_STDDEV).exp()


def choose(log_probs: Tensor, noise: Tensor, temperature: Tensor | float) -> Tensor:
    """Numbers (n, 1) drawn from weights ~ exp(log_probs/temperature), (n, K) or (K,); temperature 0 is the largest.

    `noise` (n, 1) is standard normal; its cumulative probability is inverted through the weights.
    """
    u = torch.special.ndtr(noise.double())
    heat = torch.as_tensor(temperature, dtype=torch.float64, device=u.device).expand(len(u), 1)
    weights = torch.softmax(log_probs.double() / heat.clamp(min=1e-12), dim=-1)
    drawn = (weights.cumsum(-1) < u).sum(-1, keepdim=True).clamp(max=log_probs.shape[-1] - 1)
    largest = log_probs.argmax(-1, keepdim=True).expand_as(drawn)
    return torch.where(heat > 0, drawn, largest).to(noise.dtype)
