"""Normalizing flows as priors and posteriors: neural spline couplings (Durkan et al., "Neural spline flows", NeurIPS
2019), of the library zuko.

A flow is an invertible f with u = f(z): log p(z) = log p_base(f(z)) + log |det df/dz|. Couplings (two passes) invert as
fast as they run. They begin as the identity, so that training begins at the base distribution.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import zuko
from torch import Tensor, nn

from elbod.generators.posteriors import Posterior
from elbod.generators.priors import Prior

# Of a coupling's spline: widths and heights of 8 bins, and the slopes between them.
_NUMBERS_PER_FEATURE = 3 * 8 - 1
_MAX_WEIGHTS = 2**26


def aligned_context(features: int, least: int) -> int:
    """At least so many numbers of context, so that those and the features are a multiple of 16.

    Matrix products over an odd number of inputs round a row differently by its place in a tile on some processors (11
    and 67 inputs on AVX-512), and a model whose rows depend on their place is not reproducible.
    """
    return least + -(features + least) % 16


def check_flow_sizes(features: int, transforms: int, hidden: Sequence[int]) -> None:
    """Raises ValueError for a flow of more weights than any has: its masks are computed while it is built."""
    widths = (2 * features + hidden[-1], *hidden, _NUMBERS_PER_FEATURE * features)
    weights = transforms * sum(math.prod(pair) for pair in itertools.pairwise(widths))
    if weights > _MAX_WEIGHTS:
        raise ValueError(f"a flow has at most {_MAX_WEIGHTS} weights, not {weights}: make flow_hidden smaller")


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
        self._copy: zuko.flows.Flow | None = None
        self._copied: object = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Precisions":
        return Precisions(copy.deepcopy(self._trained, memo))

    def kept_bytes(self) -> int:
        """What the copy takes: twice the weights, and the masks again."""
        tensors = self._trained.state_dict().values()
        return sum(tensor.nbytes * (2 if tensor.dtype == torch.float32 else 1) for tensor in tensors)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u = f(z) and log |det df/dz| (n,), as z is; computed in the precision of the weights while they train."""
        flow, dtype = self._of(z.dtype)
        # In bfloat16, as other layers may run while training, the two directions would not be each other's inverse.
        with torch.autocast(z.device.type, enabled=False):
            given = None if context is None else context.to(dtype)
            u, log_det = flow(given).transform.call_and_ladj(z.to(dtype))
        return u.to(z.dtype), log_det.to(z.dtype)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """z with f(z) = u, likewise."""
        flow, dtype = self._of(u.dtype)
        with torch.autocast(u.device.type, enabled=False):
            given = None if context is None else context.to(dtype)
            z: Tensor = flow(given).transform.inv(u.to(dtype))
        return z.to(u.dtype)

    def _of(self, dtype: torch.dtype) -> tuple[zuko.flows.Flow, torch.dtype]:
        """The flow that computes in this precision, or the trained one and its own: a copy would get no gradient."""
        weights = list(self._trained.parameters())
        trained = weights[0].dtype
        if trained == dtype or (torch.is_grad_enabled() and weights[0].requires_grad):
            return self._trained, trained
        # Whatever writes to a tensor raises its version; another device is another tensor.
        state = (weights[0].device, dtype, [weight._version for weight in weights])
        if self._copied != state:
            with torch.inference_mode(False):
                self._copy = copy.deepcopy(self._trained).to(dtype).requires_grad_(False)
            self._copied = state
        return self._copy, dtype


@dataclass(frozen=True)
class FlowPrior(Prior):
    """p(z) with u = f(z) ~ N(0, I); temperature scales u."""

    flow: Precisions
    dimensions: int

    @property
    def noise_dimensions(self) -> int:
        return self.dimensions

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return self.flow.inverse(temperature * noise)

    def log_prob(self, z: Tensor) -> Tensor:
        u, log_det = self.flow.forward(z)
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

    @property
    def noise_dimensions(self) -> int:
        return self.mean.shape[-1]

    def double(self) -> "FlowPosterior":
        return FlowPosterior(self.flow, self.mean.double(), self.stddev.double(), self.context.double())

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return self.flow.inverse(self.mean + temperature * self.stddev * noise.to(self.mean.dtype), self.context)

    def log_prob(self, z: Tensor) -> Tensor:
        u, log_det = self.flow.forward(z, self.context)
        standardized = (u - self.mean) / self.stddev
        log_density: Tensor = log_det - (0.5 * (standardized**2 + math.log(2 * math.pi)) + self.stddev.log()).sum(-1)
        return log_density
