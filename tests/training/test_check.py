"""The publish check: every way in which a model's numbers cannot be right is refused, and our families pass."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elbod.generators.base import Blueprint, Generator
from elbod.generators.likelihoods import LIKELIHOODS, Observation
from elbod.generators.likelihoods.bernoulli import BernoulliObservation
from elbod.generators.likelihoods.gaussian import GaussianObservation
from elbod.generators.posteriors import DiagonalNormal, Posterior
from elbod.generators.priors import ClosedFormPosterior, NormalMixture, Prior, StandardNormal
from elbod.training.check import check_model
from elbod.training.errors import RefusedModel
from tests.support import (
    BITS,
    CONVOLUTIONAL,
    FLOW_POSTERIOR,
    FLOW_PRIOR,
    LADDER,
    LEVELS,
    LINEAR,
    MIXTURE,
    VAMP,
    build_generator,
)

OURS = {
    "levels": LEVELS,
    "bits": BITS,
    "vamp": VAMP,
    "flow_prior": FLOW_PRIOR,
    "flow_posterior": FLOW_POSTERIOR,
    "convolutional": CONVOLUTIONAL,
    "ladder": LADDER,
    "mixture": MIXTURE,
    "linear": LINEAR,
    **{
        name: Blueprint(
            family="vae",
            spec={"latent_dim": 2, "hidden": [8]},
            likelihood=name,
            event_shape=(5,),
            levels=9 if kind.measure == "pmf" and name != "bernoulli" else None,
        )
        for name, kind in LIKELIHOODS.items()
    },
    **{
        f"{name}-65536": Blueprint(
            family="vae", spec={"latent_dim": 2, "hidden": [8]}, likelihood=name, event_shape=(3,), levels=65_536
        )
        for name in ("categorical", "discretized_logistic", "discretized_logistic_mixture")
    },
}


def _rows(blueprint: Blueprint, n: int = 12) -> Tensor:
    u = torch.rand(n, *blueprint.event_shape, generator=torch.Generator().manual_seed(1))
    return (u * (blueprint.levels or 2)).floor() if LIKELIHOODS[blueprint.likelihood].measure == "pmf" else u


@pytest.mark.parametrize("blueprint", OURS.values(), ids=OURS)
def test_our_families_and_likelihoods_pass(blueprint: Blueprint) -> None:
    check_model(build_generator(blueprint), _rows(blueprint))


class Codec(Generator):
    """Bits from a linear map of z, right in every respect; each subclass below breaks one."""

    def __init__(self, likelihood: str = "bernoulli") -> None:
        super().__init__(Blueprint(family="codec", spec={}, likelihood=likelihood, event_shape=(6,)), latent_dim=2)
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 4), nn.Linear(2, 6)
        self.eval().requires_grad_(False)

    @classmethod
    def build(cls, blueprint: Blueprint, spec: Any) -> "Codec":
        return cls()

    def initialize(self, x: Tensor, label: Tensor | None = None) -> None: ...

    def encode(self, x: Tensor, label: Tensor | None = None) -> Posterior:
        mean, log_stddev = self.up(x).chunk(2, -1)
        return self.posterior({"mean": mean, "stddev": log_stddev.exp()})

    def posterior(self, parameters: Any) -> Posterior:
        return DiagonalNormal(parameters["mean"], parameters["stddev"])

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        return BernoulliObservation(self.down(z))

    def prior(self) -> Prior:
        return StandardNormal(2)


@dataclass(frozen=True)
class _Improper(BernoulliObservation):
    def double(self) -> "_Improper":
        return _Improper(self.logits.double())

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + 1e-6


@dataclass(frozen=True)
class _DroppedConstant(GaussianObservation):
    def double(self) -> "_DroppedConstant":
        return _DroppedConstant(self.location.double(), self.log_scale.double())

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class _OtherSampler(GaussianObservation):
    """Draws are twice as wide as the density says."""

    def double(self) -> "_OtherSampler":
        return _OtherSampler(self.location.double(), self.log_scale.double())

    def icdf(self, u: Tensor) -> Tensor:
        return self.location + 2 * (super().icdf(u) - self.location)


class _Bounded(StandardNormal):
    def log_prob(self, z: Tensor) -> Tensor:
        return torch.where((z.abs() < 0.1).all(-1), super().log_prob(z), -torch.inf)


class _WrongKL(StandardNormal):
    def kl(self, q: ClosedFormPosterior) -> Tensor:
        return 0.5 * super().kl(q)


class Bare(Codec):
    """A codec without a likelihood."""

    def decode(self, z: Tensor, label: Tensor | None = None) -> Any:
        return torch.sigmoid(self.down(z))


class SumsToMore(Codec):
    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        return _Improper(self.down(z))


class Unnormalised(Codec):
    def __init__(self) -> None:
        super().__init__("gaussian")

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        location = self.down(z)
        return _DroppedConstant(location, torch.zeros_like(location))


class SamplesAnother(Unnormalised):
    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        location = self.down(z)
        return _OtherSampler(location, torch.zeros_like(location))


class ImpossibleLatents(Codec):
    def prior(self) -> Prior:
        return _Bounded(2)


class Diverged(Codec):
    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        return BernoulliObservation(torch.nan * self.down(z))


class WrongClosedForm(Codec):
    def prior(self) -> Prior:
        return _WrongKL(2)


class SeesItsNeighbours(Codec):
    def encode(self, x: Tensor, label: Tensor | None = None) -> Posterior:
        return super().encode(x - x.mean(0))


class NormalisesTheBatch(Codec):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6).train().requires_grad_(False)

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        return BernoulliObservation(self.norm(self.down(z)))


class DropsLogits(Codec):
    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        return BernoulliObservation(nn.functional.dropout(self.down(z), 0.5, training=True))


class DropsOut(Codec):
    def encode(self, x: Tensor, label: Tensor | None = None) -> Posterior:
        return super().encode(nn.functional.dropout(x, 0.5, training=True))


class Collapsed(Codec):
    def posterior(self, parameters: Any) -> Posterior:
        return DiagonalNormal(parameters["mean"], 0 * parameters["stddev"])


class HidesThatItsKlIsSampled(Codec):
    def prior(self) -> Prior:
        return NormalMixture(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.ones(2, 2))


class HidesItsClosedForm(Codec):
    def __init__(self) -> None:
        super().__init__()
        self.kl_estimator = "monte_carlo"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Bare, r"decode returns a Tensor, no distribution: without p\(x\|z\) there is no ELBO"),
        (SumsToMore, r"probabilities of all levels of x\[0\] of draw 0 sum to 1\.000001"),
        (Unnormalised, r"density of x\[0\] of draw 0 integrates to 1\.50398 between quantiles 0\.6 apart"),
        (SamplesAnother, r"density of x\[0\] of draw 0 integrates to 0\.9\d+ between quantiles 0\.6 apart"),
        (ImpossibleLatents, r"log p\(z\) of a draw of test row 0 is -inf"),
        (Diverged, "the held-out ELBO of test row 0 is nan"),
        (NormalisesTheBatch, "decode of row 0 depends on the rows beside it"),
        (DropsLogits, "decode of the same rows gives other numbers again"),
        (WrongClosedForm, r"KL\(q \|\| p\) of test row \d in closed form differs from the mean"),
        (SeesItsNeighbours, "encode of row 0 depends on the rows beside it"),
        (DropsOut, "is dropout left on"),
        (Collapsed, r"log q\(z\|x\) of a draw of test row 0"),
        (HidesThatItsKlIsSampled, 'no closed form: set kl_estimator = "monte_carlo"'),
        (HidesItsClosedForm, 'have closed forms: set kl_estimator = "closed_form"'),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_reason(broken: type[Codec], reason: str) -> None:
    rows = _rows(BITS)[:, :2].flatten(1)[:, :6]
    check_model(Codec(), rows)
    with pytest.raises(RefusedModel, match=reason):
        check_model(broken(), rows)


def test_conditional_terms_are_held_to_their_densities() -> None:
    """A hierarchy whose conditional KL is not that of its densities."""
    generator = build_generator(LADDER)

    class Wrong(type(generator)):  # type: ignore[misc]
        def latent_terms(self, q: Posterior, z: Tensor) -> Any:
            terms = super().latent_terms(q, z)
            return replace(terms, conditional=replace(terms.conditional, kl=terms.conditional.kl + 3))

    generator.__class__ = Wrong
    with pytest.raises(RefusedModel, match="in closed form differs from the mean"):
        check_model(generator, _rows(LADDER))
