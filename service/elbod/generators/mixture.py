"""`mixture`: a finite mixture, z in {0 ... K-1} enumerated, the oracle of discrete latents.

    p(z) = softmax(logits),   p(x|z) = product over i of a likelihood with parameters theta_{z,i}
    q(z|x) = p(z|x) proportional to p(z) p(x|z),   log p(x) = logsumexp over z of log p(z) + log p(x|z)

Everything is a finite sum: the bound is exact and equals log p(x) (McLachlan and Peel, "Finite Mixture Models", 2000).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from elbod.generators.base import Blueprint, Generator
from elbod.generators.likelihoods import Observation
from elbod.generators.posteriors import CategoricalPosterior, Posterior
from elbod.generators.priors import CategoricalPrior

# Components begin as training rows moved this far towards their standardized mean, which is zero.
_SHRINKAGE = 0.5


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """Number of components."""

    components: int = 10

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"components must be positive, got {self.components}")


@final
class Mixture(Generator):
    family = "mixture"
    Spec = MixtureSpec

    shift: Tensor
    scale: Tensor

    def __init__(self, blueprint: Blueprint, spec: MixtureSpec) -> None:
        super().__init__(blueprint, latent_dim=1)
        shape = (spec.components, *self.event_shape, self.likelihood.parameters)
        self.logits = nn.Parameter(torch.zeros(spec.components))
        self.outputs = nn.Parameter(0.1 * torch.randn(shape))
        dtype = torch.float64 if self.likelihood.measure == "density" else torch.float32
        self.register_buffer("shift", torch.zeros(self.event_shape, dtype=dtype))
        self.register_buffer("scale", torch.ones(self.event_shape, dtype=dtype))

    @property
    def latent_levels(self) -> int:
        return len(self.logits)

    @classmethod
    def build(cls, blueprint: Blueprint, spec: MixtureSpec) -> Self:
        return cls(blueprint, spec)

    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        shift, scale = self.likelihood.standardization(x)
        self.shift, self.scale = shift.to(self.shift.dtype), scale.to(self.scale.dtype)
        if self.likelihood.parameters > 2:
            # Logits or weights of many levels: random values break the symmetry.
            return
        rows = torch.linspace(0, len(x) - 1, len(self.logits)).round().long()
        with torch.no_grad():
            self.outputs[..., 0] = _SHRINKAGE * (x[rows].to(self.shift.dtype) - self.shift) / self.scale

    def encode(self, x: Tensor, label: Tensor | None = None) -> CategoricalPosterior:
        log_joint = self._log_likelihoods(x) + self.prior().log_probs
        return CategoricalPosterior(torch.log_softmax(log_joint, dim=-1))

    def posterior(self, parameters: Mapping[str, Tensor]) -> CategoricalPosterior:
        return CategoricalPosterior(parameters["log_probs"])

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        return self.likelihood.observe(self.outputs[z[:, 0].long()], self.shift, self.scale)

    def prior(self) -> CategoricalPrior:
        return CategoricalPrior(torch.log_softmax(self.logits.double(), dim=-1))

    def expected_log_likelihood(self, x: Tensor, q: Posterior) -> Tensor:
        expected = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        weights = q.parameters["log_probs"].double().exp().reshape(len(x), -1, *[1] * (x.ndim - 1))
        for weight, elements in zip(weights.unbind(1), self._elements(x), strict=True):
            expected += weight * elements
        return expected

    def log_evidence(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._log_likelihoods(x) + self.prior().log_probs, dim=-1)

    def objective(self, x: Tensor, noise: Tensor, beta: float | Tensor, label: Tensor | None = None) -> Tensor:
        """log p(x) itself: nothing needs to be drawn."""
        return self.log_evidence(x)

    def importance_objective(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """log p(x) again: every weight p(x, z)/p(z|x) equals p(x)."""
        return self.log_evidence(x)

    def _log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(x|z) for every z, (n, K), float64."""
        return torch.stack([elements.flatten(1).sum(-1) for elements in self._elements(x)], dim=-1)

    def _elements(self, x: Tensor) -> Iterator[Tensor]:
        """log p(x_i|z) for one z after another, (n, *event_shape): n x K x D numbers would not stay in the cache."""
        for outputs in self.outputs:
            observation = self.likelihood.observe(outputs.expand(len(x), *outputs.shape), self.shift, self.scale)
            yield observation.double().log_prob(x)
