"""Likelihoods p(x|z): proper, fully normalised distributions over each element of an event.

A `Likelihood` knows the support, the measure and the parameters of one element; `Likelihood.observe` turns network
outputs into an `Observation`, the distribution itself. Elements are independent given z.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

Measure = Literal["pmf", "density"]


class Observation(ABC):
    """p(x|z) for n latents, element by element: parameters are (n, *event_shape)."""

    @abstractmethod
    def double(self) -> "Observation":
        """The same distribution with float64 parameters: densities are evaluated there."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_i|z) of every element, nats, (n, *event_shape); the caller sums."""

    @abstractmethod
    def mean(self) -> Tensor:
        """E[x|z] in data units."""

    @abstractmethod
    def icdf(self, u: Tensor) -> Tensor:
        """x at cumulative probability u in (0, 1): a draw when u is uniform, one u an element."""


class Likelihood(ABC):
    """The observation model of one element; `parameters` numbers an element are read from the network."""

    name: ClassVar[str]
    measure: ClassVar[Measure]
    parameters: ClassVar[int]

    def __init__(self, event_shape: tuple[int, ...], levels: int | None) -> None:
        self.event_shape = event_shape
        self.levels = levels
        self.event_dims = math.prod(event_shape)

    @property
    @abstractmethod
    def support(self) -> str:
        """The support in words, for messages: `the integers 0 ... 16`."""

    @abstractmethod
    def supports(self, x: Tensor) -> Tensor:
        """Whether each element lies in the support."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x in answers."""
        return torch.uint8 if self.measure == "pmf" and (self.levels or 2) <= 256 else torch.float32

    @abstractmethod
    def standardization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(shift, scale), each (*event_shape): (x - shift) / scale is what a network sees. x: training rows."""

    @abstractmethod
    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> Observation:
        """p(x|z) from network outputs (n, *event_shape, parameters) in standardized units."""


@dataclass(frozen=True)
class BernoulliObservation(Observation):
    """P(x_i = 1) = sigmoid(logits_i)."""

    logits: Tensor

    def double(self) -> "BernoulliObservation":
        return BernoulliObservation(self.logits.double())

    def log_prob(self, x: Tensor) -> Tensor:
        # torch.distributions.Bernoulli's formula, which is exact on {0, 1} for every logit.
        return -F.binary_cross_entropy_with_logits(self.logits, x.to(self.logits.dtype), reduction="none")

    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def icdf(self, u: Tensor) -> Tensor:
        return (u > torch.sigmoid(-self.logits)).to(self.logits.dtype)


class Bernoulli(Likelihood):
    """x_i in {0, 1}."""

    name = "bernoulli"
    measure: ClassVar[Measure] = "pmf"
    parameters = 1

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
    def support(self) -> str:
        return "the real numbers"

    def supports(self, x: Tensor) -> Tensor:
        return torch.isfinite(x)

    def standardization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = x.double()
        scale = values.std(0, correction=0)
        # A constant element keeps its units.
        return values.mean(0).float(), torch.where(scale > 0, scale, 1.0).float()

    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> Observation:
        location = shift + scale * outputs[..., 0]
        log_scale = outputs[..., 1].clamp(min=self.min_log_scale) + scale.log()
        return GaussianObservation(location, log_scale.expand_as(location))


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

    def mean(self) -> Tensor:
        # E[x] = sum over k < levels-1 of P(x > k).
        total = torch.zeros_like(self.location)
        inverse_scale = torch.exp(-self.log_scale)
        for k in range(self.levels - 1):
            total += torch.sigmoid((self.location - (k + 0.5)) * inverse_scale)
        return total

    def icdf(self, u: Tensor) -> Tensor:
        # The smallest k with sigmoid((k + 1/2 - location)/s) >= u.
        quantile = self.location + self.log_scale.exp() * torch.logit(u)
        return torch.ceil(quantile - 0.5).clamp(0, self.levels - 1)


class DiscretizedLogistic(Likelihood):
    """x_i in 0 ... levels-1, ordered: pixels and counts with a top."""

    name = "discretized_logistic"
    measure: ClassVar[Measure] = "pmf"
    parameters = 2

    # Scales below e^-7 of half the range put all mass on one level already, those above e^7 on the two edges; beyond,
    # the mass of a level between underflows to log 0.
    min_log_scale: ClassVar[float] = -7.0
    max_log_scale: ClassVar[float] = 7.0

    def __init__(self, event_shape: tuple[int, ...], levels: int | None) -> None:
        super().__init__(event_shape, levels)
        if levels is None or levels < 2:
            raise ValueError(f"discretized_logistic needs levels >= 2, got {levels}")
        self._levels = levels

    @property
    def support(self) -> str:
        return f"the integers 0 ... {self._levels - 1}"

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= self._levels - 1) & (x == torch.floor(x) if x.is_floating_point() else x == x)

    def standardization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.full(self.event_shape, (self._levels - 1) / 2)
        return half, half.clone()

    def observe(self, outputs: Tensor, shift: Tensor, scale: Tensor) -> Observation:
        location = shift + scale * outputs[..., 0]
        log_scale = outputs[..., 1].clamp(self.min_log_scale, self.max_log_scale) + scale.log()
        return DiscretizedLogisticObservation(location, log_scale, self._levels)


LIKELIHOODS: dict[str, type[Likelihood]] = {kind.name: kind for kind in (Bernoulli, Gaussian, DiscretizedLogistic)}


def make_likelihood(name: str, event_shape: tuple[int, ...], levels: int | None) -> Likelihood:
    """The likelihood of that name; ValueError names the known ones."""
    try:
        kind = LIKELIHOODS[name]
    except KeyError:
        raise ValueError(f"unknown likelihood {name!r}: one of {', '.join(sorted(LIKELIHOODS))}") from None
    return kind(event_shape, levels)
