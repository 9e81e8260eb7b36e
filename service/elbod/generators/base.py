"""What a model is: the `Generator` interface, and the blueprint that together with the weights decides its numbers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from elbod.generators.likelihoods import Likelihood, Observation, make_likelihood
from elbod.generators.posteriors import Posterior
from elbod.generators.priors import ClosedFormPrior, Prior


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """Everything but the weights that decides a model's numbers.

    `spec` is the family's own (layer sizes, latent dimension); `event_shape` is the shape of one row of the training
    array; `levels` is L for data on 0 ... L-1 and None for densities; `binarization` is how the training data became
    binary (None where they were not); `labels` names the classes of a conditional model.
    """

    family: str
    spec: Mapping[str, Any]
    likelihood: str
    event_shape: tuple[int, ...]
    levels: int | None = None
    binarization: str | None = None
    labels: tuple[str, ...] | None = None


KlEstimator = Literal["closed_form", "monte_carlo"]


class Generator(nn.Module, ABC):
    """A latent-variable model p(x, z) = p(z) p(x|z) with an approximate posterior q(z|x).

    A family is one final subclass in one file. Rows are independent: row i of an output depends on row i of the input
    alone, since rows of many callers share a batch. x is (n, *event_shape) in data units, z is (n, latent_dim).
    """

    family: ClassVar[str]
    Spec: ClassVar[type[Any]]

    def __init__(self, blueprint: Blueprint, latent_dim: int) -> None:
        super().__init__()
        self.blueprint = blueprint
        # Whether the terms of the bound that do not involve x are all closed-form or all sampled.
        self.kl_estimator: KlEstimator = "closed_form"
        self.latent_dim = latent_dim
        self.likelihood: Likelihood = make_likelihood(blueprint.likelihood, blueprint.event_shape, blueprint.levels)

    @classmethod
    @abstractmethod
    def build(cls, blueprint: Blueprint, spec: Any) -> Self:
        """An instance with untrained weights; `spec` is `blueprint.spec` validated as `cls.Spec`."""

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Set what the training rows decide before the first gradient step: for closed-form families, everything."""

    def prepare(self) -> None:
        """Compute what stays constant while the weights do; called once before a trained model is used."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.blueprint.event_shape

    @abstractmethod
    def encode(self, x: Tensor) -> Posterior:
        """q(z|x)."""

    @abstractmethod
    def posterior(self, parameters: Mapping[str, Tensor]) -> Posterior:
        """q(z|x) again from `Posterior.parameters` (the engine stores those between its stages)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Observation:
        """p(x|z)."""

    @abstractmethod
    def prior(self) -> Prior:
        """p(z)."""

    def supports_latents(self, z: Tensor) -> Tensor:
        """Whether each row of z (n, latent_dim) can be decoded, (n,)."""
        return torch.ones(len(z), dtype=torch.bool, device=z.device)

    def expected_log_likelihood(self, x: Tensor, q: Posterior) -> Tensor | None:
        """E_q[log p(x|z)] (n,) in closed form, float64; None for families that have to draw."""
        return None

    def objective(self, x: Tensor, noise: Tensor, beta: float) -> Tensor:
        """What training maximises, (n,): log p(x|z) - beta KL(q(z|x) || p(z)) with one reparameterized z a row.

        `noise` (n, latent_dim) is standard normal. Not the reported bound, which has beta = 1.
        """
        q, prior = self.encode(x), self.prior()
        z = q.draw(noise)
        kl = prior.kl(q) if isinstance(prior, ClosedFormPrior) else q.log_prob(z) - prior.log_prob(z)
        return self.decode(z).log_prob(x).flatten(1).sum(-1) - beta * kl

    def log_evidence(self, x: Tensor) -> Tensor | None:
        """Exact log p(x) (n,) in nats, float64, from the marginal; None for families that have none."""
        return None
