"""What a model is: the `Generator` interface, and the blueprint that together with the weights decides its numbers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from elbod.generators.likelihoods import Likelihood, Observation, make_likelihood
from elbod.generators.posteriors import Posterior
from elbod.generators.priors import Prior
from elbod.generators.terms import PathTerms, Sampled


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
class Walk:
    """Latents of n draws on their way from z_T ~ p(z_T) or q(z_T|x) to the z_0 that is decoded.

    z is (n, latent_dim) float32, as callers see it: every density is evaluated at that very value. Families with
    `levels` say where each draw stands: `level` (n,) int64 is 0 for draws that are ready to be observed, `below` (n,)
    is the level that the next pass makes. `state` is what `observe` can go on from instead of z.
    """

    z: Tensor
    level: Tensor | None = None
    below: Tensor | None = None
    state: Tensor | None = None


class Generator(nn.Module, ABC):
    """A latent-variable model p(x, z) = p(z) p(x|z) with an approximate posterior q(z|x).

    A family is one final subclass in one file. Rows are independent: row i of an output depends on row i of the input
    alone, since rows of many callers share a batch. x is (n, *event_shape) in data units, z is (n, latent_dim), and
    label (n,) holds int64 class numbers for models that are `conditional` on one (`blueprint.labels` names the
    classes), None for all others.
    """

    family: ClassVar[str]
    # Passes between p(z_T) and p(x|z_0).
    levels: int = 0
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

    @classmethod
    def takes_labels(cls, spec: Any) -> bool:
        """Whether models of that spec are conditional on a label."""
        return False

    @property
    def conditional(self) -> bool:
        return self.blueprint.labels is not None

    @property
    def null_label(self) -> int | None:
        """The class number that stands for "no label" in models that learn p(x) as one more class.

        None: without a label the score of log p(x) is the sum over all labels.
        """
        return None

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

    def latent_terms(self, q: Posterior, z: Tensor) -> PathTerms[Tensor]:
        """log p(z) and log q(z|x) at one z a row, for families without levels."""
        z = z.double()
        return PathTerms(Sampled(self.prior().log_prob(z), q.double().log_prob(z)))

    def begin(
        self, q: Posterior | None, noise: Tensor, temperature: Tensor | float = 1.0
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        """Latents drawn from standard normals: from q(z|x) with their terms, or from p(z), which has none.

        `noise` is (n, noise_dimensions) of q or of the prior; `temperature` (n, 1) scales the randomness.
        """
        if q is None:
            return Walk(self.prior().draw(noise, temperature).float()), None
        z = q.draw(noise, temperature).float()
        return Walk(z), self.latent_terms(q, z)

    def advance(
        self, walk: Walk, q: Posterior | None, noise: Tensor, label: Tensor | None = None
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        """Each draw one pass further: from q(z_{i-1}|z_i, x) with the terms of the pass, or from p(z_{i-1}|z_i).

        Rows may stand at different levels, `noise` is as of `begin`. Families with `levels` implement it.
        """
        raise NotImplementedError(f"family {self.blueprint.family!r} has no levels")

    def observe(self, walk: Walk, label: Tensor | None = None) -> Observation:
        """p(x|z_0) of draws at level 0; at any other level what the model believes of each element of x."""
        return self.decode(walk.z, label)

    @property
    def objective_noise_dimensions(self) -> int:
        """How many standard normals a row of `objective` takes."""
        return self.latent_dim

    def objective(self, x: Tensor, noise: Tensor, beta: float | Tensor, label: Tensor | None = None) -> Tensor:
        """What training maximises, (n,): log p(x|z) - beta KL(q(z|x) || p(z)) with one reparameterized z a row.

        `noise` (n, objective_noise_dimensions) is standard normal. Not the reported bound, which has beta = 1.
        """
        q, prior = self.encode(x, label), self.prior()
        z = q.draw(noise)
        kl = q.log_prob(z) - prior.log_prob(z) if (exact := prior.closed_kl(q)) is None else exact
        return self.decode(z, label).log_prob(x).flatten(1).sum(-1) - beta * kl

    def stratified(self, noise: Tensor) -> Tensor:
        """The noise of `objective` for all rows of a batch, with what these share written into each row."""
        return noise

    def objective_of_part(
        self, x: Tensor, noise: Tensor, beta: float | Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`objective` of some rows of a batch, (n,), and its statistics; `noise` are their rows of `stratified` noise.

        Statistics are sums over rows: those of the parts add up to those of the batch.
        """
        return self.objective(x, noise, beta, label), ()

    def update_buffers(self, statistics: Sequence[Tensor]) -> None:
        """Update the buffers that follow the training rows without a gradient, from the statistics of a whole batch.

        Zeros change nothing: they stand for a step that does not count.
        """

    def importance_objective(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """The importance-weighted bound as what training maximises, (n,): log 1/K sum over k of p(x, z_k)/q(z_k|x).

        `noise` (n, K, latent_dim) is standard normal. K = 1 is `objective` at beta 1 with a sampled KL (Burda, Grosse
        and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016). Families with `levels` have none.
        """
        if self.levels:
            raise NotImplementedError(
                f"family {self.blueprint.family!r} has levels: its importance-weighted bound is not trained"
            )
        n, draws, _ = noise.shape
        parameters = self.encode(x, label).parameters
        q = self.posterior({name: value.repeat_interleave(draws, 0) for name, value in parameters.items()})
        walk, path = self.begin(q, noise.flatten(0, 1))
        assert path is not None
        observation = self.observe(walk, None if label is None else label.repeat_interleave(draws, 0))
        reconstruction = observation.log_prob(x.repeat_interleave(draws, 0)).flatten(1).sum(-1)
        log_weights = reconstruction + path.sampled.log_prior - path.sampled.log_q
        return torch.logsumexp(log_weights.unflatten(0, (n, draws)), dim=1) - math.log(draws)

    def log_evidence(self, x: Tensor) -> Tensor | None:
        """Exact log p(x) (n,) in nats, float64, from the marginal; None for families that have none."""
        return None


def mistaken_kl_estimator(generator: Generator, q: Posterior, path: PathTerms[Tensor]) -> str | None:
    """Why `kl_estimator` is not how the terms of the bound are known, given those of draws of rows with q(z|x); None
    if it is.

    What relies on it would look for terms that are not there, or call a closed form sampled.
    """
    actual: KlEstimator
    if generator.prior().closed_form(q.double()) is not None:
        actual, reason = "closed_form", "q(z|x) and p(z) have closed forms"
    elif path.conditional is not None and path.entropy is None:
        actual, reason = "conditional", "the terms have closed forms given the drawn groups"
    else:
        actual, reason = "monte_carlo", "q(z|x) or p(z) has no closed form"
    if generator.kl_estimator == actual:
        return None
    family = generator.blueprint.family
    return f'family {family!r} has kl_estimator "{generator.kl_estimator}", but {reason}: set kl_estimator = "{actual}"'
