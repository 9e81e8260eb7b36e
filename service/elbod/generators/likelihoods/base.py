"""The interface of a likelihood, and what those over levels share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

Measure = Literal["pmf", "density"]

# Of 16-bit data.
MAX_LEVELS = 65_536


class Observation(ABC):
    """p(x|z) for n latents, element by element: parameters are (n, *event_shape)."""

    @abstractmethod
    def double(self) -> "Observation":
        """The same distribution with float64 parameters: densities are evaluated there."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_i|z) of every element, nats, (n, *event_shape).

        Over more than 256 levels the parameters of one latent may meet many rows of x.
        """

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x|z), nats, (n,): the sum over elements."""
        return self.log_prob(x).flatten(1).sum(-1)

    def log_levels(self) -> Tensor:
        """log P(x_i = k|z) of every level k, nats, (n, *event_shape, levels); for levels, not for densities."""
        raise NotImplementedError(f"{type(self).__name__} is a density: it has no levels")

    @abstractmethod
    def mean(self) -> Tensor:
        """E[x|z] in data units."""

    @abstractmethod
    def icdf(self, u: Tensor) -> Tensor:
        """x at cumulative probability u in (0, 1): a draw when u is uniform, one u an element."""

    def undefined(self, n: int) -> Tensor:
        """Whether one of its parameters is NaN, of each of the n latents, (n,).

        Asked before a draw is believed: comparisons with NaN are false, so `icdf` may give a level like any other.
        """
        found = torch.zeros(n, dtype=torch.bool)
        for tensor in _tensors(self):
            wrong = tensor.isnan()
            found = found.to(wrong.device) | (wrong.flatten(1).any(1) if len(tensor) == n else wrong.any())
        return found


def _tensors(distribution: object) -> Iterator[Tensor]:
    """The parameters of a distribution and of those that it is made of."""
    for value in vars(distribution).values():
        if isinstance(value, Tensor) and value.ndim:
            yield value
        elif isinstance(value, (Observation, Distribution)):
            yield from _tensors(value)


class Likelihood(ABC):
    """The observation model of one element; `parameters` numbers an element are read from the network."""

    name: ClassVar[str]
    measure: ClassVar[Measure]
    parameters: int

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


class LevelsLikelihood(Likelihood):
    """x_i in 0 ... levels-1; the network sees the levels spread over [-1, 1]."""

    measure: ClassVar[Measure] = "pmf"

    def __init__(self, event_shape: tuple[int, ...], levels: int | None) -> None:
        super().__init__(event_shape, levels)
        if levels is None or levels < 2:
            raise ValueError(f"{self.name} needs levels >= 2, got {levels}")
        if levels > MAX_LEVELS:
            raise ValueError(f"{self.name} has at most {MAX_LEVELS} levels, got {levels}: rescale the data")
        self._levels = levels

    @property
    def support(self) -> str:
        return f"the integers 0 ... {self._levels - 1}"

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= self._levels - 1) & (x == torch.floor(x) if x.is_floating_point() else x == x)

    def standardization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.full(self.event_shape, (self._levels - 1) / 2)
        return half, half.clone()
