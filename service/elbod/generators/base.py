"""What a model is: the `Generator` interface, and the blueprint that together with the weights decides its numbers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from elbod.generators.likelihoods import Likelihood, Observation, make_likelihood
from elbod.generators.posteriors import ClosedFormPosterior, Posterior
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


# How the terms of the bound that do not involve x are known: all in closed form, all sampled, or all in closed form
# given the drawn latents above them.
KlEstimator = Literal["closed_form", "monte_carlo", "conditional"]


@dataclass(frozen=True)
class ConditionalTerms:
    """Terms of the bound given the drawn groups of a hierarchy, summed over groups, one draw a row: (n,), float64.

    With p_l = p(z_l | z above) and q_l = q(z_l | z above, x): kl = sum KL(q_l || p_l), log_prior = sum E_q_l[log p_l],
    entropy = sum H[q_l], each by code of its own.
    """

    kl: Tensor
    log_prior: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class LatentTerms:
    """log p(z) and log q(z|x) at one draw a row, (n,), nats, float64."""

    log_prior: Tensor
    log_q: Tensor
    conditional: ConditionalTerms | None = None


@dataclass(frozen=True)
class Drawn:
    """One draw a row with what scores it."""

    z: Tensor
    terms: LatentTerms
    observation: Observation


class Generator(nn.Module, ABC):
    """A latent-variable model p(x, z) = p(z) p(x|z) with an approximate posterior q(z|x).

    A family is one final subclass in one file. Rows are independent: row i of an output depends on row i of the input
    alone, since rows of many callers share a batch. x is (n, *event_shape) in data units, z is (n, latent_dim), and
    label (n,) holds int64 class numbers for families that are `conditional` on one (`blueprint.labels` names the
    classes), None for all others.
    """

    family: ClassVar[str]
    conditional: ClassVar[bool] = False
    Spec: ClassVar[type[Any]]

    def __init__(self, blueprint: Blueprint, latent_dim: int) -> None:
        super().__init__()
        self.blueprint = blueprint
        self.kl_estimator: KlEstimator = "closed_form"
        self.latent_dim = latent_dim
        self.likelihood: Likelihood = make_likelihood(blueprint.likelihood, blueprint.event_shape, blueprint.levels)

    @classmethod
    @abstractmethod
    def build(cls, blueprint: Blueprint, spec: Any) -> Self:
        """An instance with untrained weights; `spec` is `blueprint.spec` validated as `cls.Spec`.

        Before a version is loaded this runs with large tensors on the `meta` device, which have no values (see
        `outline.Outline`): what needs the values of weights belongs in `prepare`.
        """

    @abstractmethod
    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        """Set what the training rows decide before the first gradient step: for closed-form families, everything."""

    def prepare(self) -> None:
        """Compute what stays constant while the weights do; called once before a trained model is used."""

    def kept_bytes(self) -> int:
        """Bytes that the model keeps while it is loaded: its tensors and, in families that override this, what they
        compute from those once."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.blueprint.event_shape

    @property
    def latent_levels(self) -> int | None:
        """K where every number of z is an integer 0 ... K-1; None where it is a real number."""
        return None

    @property
    def latent_structure(self) -> str:
        """What the numbers of z are, in words, for the model's card."""
        return f"{self.latent_dim} numbers"

    @abstractmethod
    def encode(self, x: Tensor, label: Tensor | None = None) -> Posterior:
        """q(z|x)."""

    @abstractmethod
    def posterior(self, parameters: Mapping[str, Tensor]) -> Posterior:
        """q(z|x) again from `Posterior.parameters` (the engine stores those between its stages)."""

    @abstractmethod
    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        """p(x|z)."""

    @abstractmethod
    def prior(self) -> Prior:
        """p(z)."""

    def label_log_prob(self) -> Tensor | None:
        """log p(y) of every class, (C,), float64: the frequencies in the training rows; None without labels."""
        return None

    def expected_log_likelihood(self, x: Tensor, q: Posterior) -> Tensor | None:
        """E_q[log p(x_i|z)] of every element in closed form, (n, *event_shape), float64; None: it has to be drawn."""
        return None

    def latent_terms(self, q: Posterior, z: Tensor) -> LatentTerms:
        """log p(z) and log q(z|x) at one draw a row."""
        return LatentTerms(self.prior().log_prob(z.double()), q.double().log_prob(z.double()))

    def draw(self, q: Posterior, noise: Tensor, label: Tensor | None = None) -> Drawn:
        """z ~ q(z|x) from standard normal noise (n, latent_dim), with what scores it.

        z is float32, as callers see it, and every density is evaluated at that very value.
        """
        z = q.draw(noise).float()
        return Drawn(z, self.latent_terms(q, z), self.decode(z, label))

    def objective(self, x: Tensor, noise: Tensor, beta: float, label: Tensor | None = None) -> Tensor:
        """What training maximises, (n,): log p(x|z) - beta KL(q(z|x) || p(z)) with one reparameterized z a row.

        `noise` (n, latent_dim) is standard normal. Not the reported bound, which has beta = 1.
        """
        q, prior = self.encode(x, label), self.prior()
        z = q.draw(noise)
        if isinstance(prior, ClosedFormPrior) and isinstance(q, ClosedFormPosterior):
            kl = prior.kl(q)
        else:
            kl = q.log_prob(z) - prior.log_prob(z)
        return self.decode(z, label).log_prob(x).flatten(1).sum(-1) - beta * kl

    def importance_objective(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """The importance-weighted bound as what training maximises, (n,): log 1/K sum over k of p(x, z_k)/q(z_k|x).

        `noise` (n, K, latent_dim) is standard normal. K = 1 is `objective` at beta 1 with a sampled KL (Burda, Grosse
        and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016).
        """
        n, draws, _ = noise.shape
        parameters = self.encode(x, label).parameters
        q = self.posterior({name: value.repeat_interleave(draws, 0) for name, value in parameters.items()})
        drawn = self.draw(q, noise.flatten(0, 1), None if label is None else label.repeat_interleave(draws, 0))
        reconstruction = drawn.observation.log_prob(x.repeat_interleave(draws, 0)).flatten(1).sum(-1)
        log_weights = reconstruction + drawn.terms.log_prior - drawn.terms.log_q
        return torch.logsumexp(log_weights.unflatten(0, (n, draws)), dim=1) - math.log(draws)

    def log_evidence(self, x: Tensor) -> Tensor | None:
        """Exact log p(x) (n,) in nats, float64, from the marginal; None for families that have none."""
        return None


def mistaken_kl_estimator(generator: Generator, q: Posterior, z: Tensor) -> str | None:
    """Why `kl_estimator` is not how the terms of the bound are known, at draws z of rows with q(z|x); None if it is.

    What relies on it would look for terms that are not there, or call a closed form sampled.
    """
    actual: KlEstimator
    if isinstance(generator.prior(), ClosedFormPrior) and isinstance(q.double(), ClosedFormPosterior):
        actual, reason = "closed_form", "q(z|x) and p(z) have closed forms"
    elif generator.latent_terms(q, z).conditional is not None:
        actual, reason = "conditional", "the terms have closed forms given the drawn groups"
    else:
        actual, reason = "monte_carlo", "q(z|x) or p(z) has no closed form"
    if generator.kl_estimator == actual:
        return None
    family = generator.blueprint.family
    return f'family {family!r} has kl_estimator "{generator.kl_estimator}", but {reason}: set kl_estimator = "{actual}"'
