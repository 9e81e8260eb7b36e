"""The publish check: every way in which a model's numbers cannot be right is refused, and our families pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elbod.generators.base import Blueprint, Generator, Walk
from elbod.generators.likelihoods import LIKELIHOODS, Observation
from elbod.generators.likelihoods.bernoulli import BernoulliObservation
from elbod.generators.likelihoods.categorical import CategoricalObservation
from elbod.generators.likelihoods.gaussian import GaussianObservation
from elbod.generators.posteriors import DiagonalNormal, Posterior
from elbod.generators.priors import ClosedFormPosterior, NormalMixture, Prior, StandardNormal
from elbod.generators.terms import ClosedForm, PathTerms, Sampled
from elbod.training.check import check_model
from elbod.training.errors import RefusedModel
from tests.support import BITS, DIFFUSION, LADDER, build_generator


def _rows(blueprint: Blueprint, n: int = 12) -> Tensor:
    u = torch.rand(n, *blueprint.event_shape, generator=torch.Generator().manual_seed(1))
    return (u * (blueprint.levels or 2)).floor() if LIKELIHOODS[blueprint.likelihood].measure == "pmf" else u


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
class _Unbalanced(CategoricalObservation):
    """Right where x is scored and drawn; its levels are not those of a distribution."""

    def double(self) -> "_Unbalanced":
        return _Unbalanced(self.logits.double())

    def log_levels(self) -> Tensor:
        return super().log_levels() + 1e-6


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


@dataclass(frozen=True)
class _Reversed(BernoulliObservation):
    """Draws are those of the other level."""

    def double(self) -> "_Reversed":
        return _Reversed(self.logits.double())

    def icdf(self, u: Tensor) -> Tensor:
        return 1 - super().icdf(u)


class _Bounded(StandardNormal):
    def log_prob(self, z: Tensor) -> Tensor:
        return torch.where((z.abs() < 0.1).all(-1), super().log_prob(z), -torch.inf)


class _WrongKL(StandardNormal):
    def kl_per_dimension(self, q: ClosedFormPosterior) -> Tensor | None:
        parts = super().kl_per_dimension(q)
        assert parts is not None
        return 0.5 * parts


class _OtherKL(StandardNormal):
    """Training would maximise another bound."""

    def closed_kl(self, q: Posterior) -> Tensor | None:
        kl = super().closed_kl(q)
        assert kl is not None
        return 0.5 * kl


class _Shifted(StandardNormal):
    """E_q[log p(z)] and H[q] are wrong by what cancels in their sum."""

    def closed_form(self, q: Posterior) -> ClosedForm[Tensor] | None:
        terms = super().closed_form(q)
        assert terms is not None
        return replace(terms, log_prior=terms.log_prior + 3, entropy=terms.entropy - 3)


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


class TwoKLs(Codec):
    def prior(self) -> Prior:
        return _OtherKL(2)


class WrongParts(Codec):
    def prior(self) -> Prior:
        return _Shifted(2)


class WrongEvidence(Codec):
    def log_evidence(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), -1e3, dtype=torch.float64)


class WrongExpectation(Codec):
    def expected_log_likelihood(self, x: Tensor, q: Posterior) -> Tensor:
        return self.decode(q.parameters["mean"]).double().log_prob(x) - 1


class WrongDraws(Codec):
    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        return _Reversed(self.down(z))


class HotAtZero(Codec):
    def begin(self, q: Posterior | None, noise: Tensor, temperature: Tensor | float = 1.0) -> Any:
        return super().begin(q, noise, 1.0)


class ForgetsItsStddev(Codec):
    def posterior(self, parameters: Any) -> Posterior:
        return DiagonalNormal(parameters["mean"], torch.ones_like(parameters["mean"]))

    def encode(self, x: Tensor, label: Tensor | None = None) -> Posterior:
        mean, log_stddev = self.up(x).chunk(2, -1)
        return DiagonalNormal(mean, log_stddev.exp())


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
        (ImpossibleLatents, r"begin: log p\(z\) of row 0 is -inf"),
        (Diverged, r"decode: log p\(x_i\|z\) of row 0 is nan"),
        (NormalisesTheBatch, "decode of row 0 depends on the rows beside it"),
        (DropsLogits, "decode of the same rows gives other numbers again"),
        (WrongClosedForm, r"KL\(q \|\| p\) of row \d in closed form differs from the mean"),
        (SeesItsNeighbours, "encode of row 0 depends on the rows beside it"),
        (DropsOut, "is dropout left on"),
        (TwoKLs, r"closed_kl of the prior is not the KL\(q \|\| p\) of closed_form"),
        (WrongParts, r"E_q\[log p\(z\)\] of row 0 in closed form differs from the mean of log p"),
        (WrongEvidence, "log_evidence of row 0 is -1000 nats, but"),
        (WrongExpectation, r"E_q\[log p\(x\|z\)\] of row 0 in closed form differs"),
        (WrongDraws, r"icdf and log_prob differ: x\[\d\] of draw \d is level [01]"),
        (HotAtZero, "begin at temperature 0 gives row 0 other latents with other noise"),
        (ForgetsItsStddev, r"posterior\(q.parameters\) draws or scores row 0 otherwise than q"),
        (Collapsed, r"begin: log q\(z\|x\) of row 0 is"),
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
            return self._wrong(super().latent_terms(q, z))

        def begin(self, q: Posterior | None, noise: Tensor, temperature: Tensor | float = 1.0) -> Any:
            walk, path = super().begin(q, noise, temperature)
            return walk, self._wrong(path)

        def _wrong(self, path: Any) -> Any:
            return path and replace(path, conditional=replace(path.conditional, kl=path.conditional.kl + 3))

    generator.__class__ = Wrong
    with pytest.raises(RefusedModel, match="in closed form differs from the mean"):
        check_model(generator, _rows(LADDER))


def _moved(found: Any) -> Any:
    walk, path = found
    return replace(walk, z=walk.z - walk.z.mean(0)), path


def _of_path(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda found: (found[0], found[1] and change(found[1]))


@pytest.mark.parametrize(
    ("method", "change", "reason"),
    [
        ("log_snr", lambda gamma: gamma.flip(0), "log_snr does not fall from level 0 to level 1: gamma must ascend"),
        ("log_snr", lambda gamma: gamma[1:], r"log_snr has shape \(4,\), not \(5,\)"),
        (
            "observe",
            lambda post: _Unbalanced(post.logits),
            r"the probabilities of all levels of x\[0, 0\] of draw 0 at level \d sum to 1.000001",
        ),
        ("advance", _moved, "advance of row 0 depends on the rows beside it"),
        (
            "begin",
            _of_path(lambda path: replace(path, sampled=replace(path.sampled, log_q=path.sampled.log_q + 1e-3))),
            "begin gives terms of row 0 that are not those of the z it returns",
        ),
        (
            "advance",
            _of_path(lambda path: replace(path, conditional=replace(path.conditional, kl=path.conditional.kl + 30))),
            "in closed form differs from the mean",
        ),
        (
            "advance",
            _of_path(lambda path: replace(path, entropy=0 * path.entropy)),
            "the entropy of row 0 is not that of its conditional terms",
        ),
        ("begin", _of_path(lambda path: replace(path, entropy=None)), 'set kl_estimator = "conditional"'),
    ],
)
def test_a_chain_is_held_to_its_promises(method: str, change: Callable[[Any], Any], reason: str) -> None:
    """Levels out of order or that do not sum to one, rows that see each other, terms that are not those of the path."""
    generator = build_generator(DIFFUSION)
    kind = type(generator)
    check_model(generator, _rows(DIFFUSION))

    def changed(self: Any, *arguments: Any, **named: Any) -> Any:
        return change(getattr(kind, method)(self, *arguments, **named))

    read = property(lambda self: change(kind.log_snr.fget(self)))  # type: ignore[attr-defined]
    generator.__class__ = type("Wrong", (kind,), {method: read if method == "log_snr" else changed})
    with pytest.raises(RefusedModel, match=reason):
        check_model(generator, _rows(DIFFUSION))


class Stepped(Codec):
    """Two passes that move nothing: right in every respect; each subclass below breaks one."""

    levels = 2

    def begin(self, q: Posterior | None, noise: Tensor, temperature: Tensor | float = 1.0) -> Any:
        walk, path = super().begin(q, noise, temperature)
        level = torch.full((len(noise),), 2)
        return Walk(walk.z, level, level - 1), path

    def advance(self, walk: Walk, q: Posterior | None, noise: Tensor, label: Tensor | None = None) -> Any:
        assert walk.level is not None
        assert walk.below is not None
        nothing = torch.zeros(len(walk.z), dtype=torch.float64)
        path = None if q is None else PathTerms(Sampled(nothing, nothing))
        return Walk(walk.z, walk.level - 1, walk.below - 1), path


def test_a_family_with_levels_that_keeps_its_promises_passes() -> None:
    check_model(Stepped(), _rows(BITS)[:, :2].flatten(1)[:, :6])


Change = Callable[..., Any]


def _after(kind: type[Codec], method: str, change: Change) -> type[Codec]:
    """The family whose method returns `change` of what it should."""

    def changed(self: Codec, *arguments: Any, **named: Any) -> Any:
        return change(getattr(kind, method)(self, *arguments, **named))

    return type(f"{method}_of_{kind.__name__}", (kind,), {method: changed})


def _raise(found: object) -> Any:
    raise RuntimeError("out of luck")


def _z(change: Change) -> Change:
    return lambda found: (replace(found[0], z=change(found[0].z)), found[1])


def _walk(**changes: Any) -> Change:
    return lambda found: (replace(found[0], **changes), found[1])


def _term(name: str, change: Change) -> Change:
    def changed(found: Any) -> Any:
        walk, path = found
        if path is None:
            return found
        sampled = replace(path.sampled, **{name: change(getattr(path.sampled, name))})
        return walk, replace(path, sampled=sampled)

    return changed


def _one_nan(values: Tensor) -> Tensor:
    values = values.clone()
    values[3] = torch.nan
    return values


def _short(q: Any) -> Posterior:
    return DiagonalNormal(q.mean[1:], q.stddev[1:])


def _logits(change: Change) -> Change:
    return lambda observation: BernoulliObservation(change(observation.logits))


@pytest.mark.parametrize(
    ("kind", "method", "change", "reason"),
    [
        (Codec, "encode", _raise, "encode raises RuntimeError: out of luck"),
        (Codec, "encode", lambda q: q.mean, "encode returns a Tensor, no Posterior"),
        (
            Codec,
            "encode",
            lambda q: DiagonalNormal(q.mean[1:], q.stddev[1:]),
            r"encode: mean has shape \(7, 2\), not \(8, 2\)",
        ),
        (Codec, "encode", lambda q: DiagonalNormal(_one_nan(q.mean), q.stddev), "encode: mean of row 3 is nan"),
        (Codec, "prior", _raise, "prior raises RuntimeError: out of luck"),
        (Codec, "prepare", _raise, "prepare raises RuntimeError: out of luck"),
        (Codec, "begin", _raise, "begin raises RuntimeError: out of luck"),
        (Codec, "begin", lambda found: found[0], "begin returns a Walk, no pair of a Walk and its terms"),
        (Codec, "begin", lambda found: (found[0], None), "begin gives a NoneType as terms of a draw"),
        (Codec, "begin", _z(lambda z: z[:, :1]), r"begin: z has shape \(8, 1\), not \(8, 2\)"),
        (Codec, "begin", _z(lambda z: z.double()), "begin: z is torch.float64, not torch.float32"),
        (Codec, "begin", _z(lambda z: z.to("meta")), "begin: z is on meta, the model on cpu"),
        (Codec, "begin", _z(_one_nan), "begin: z of row 3 is nan"),
        (Codec, "begin", _z(lambda z: 1.001 * z), "begin gives terms of row 0 that are not those of the z it returns"),
        (Codec, "begin", _term("log_q", _one_nan), r"begin: log q\(z\|x\) of row 3 is nan"),
        (
            Codec,
            "begin",
            _term("log_q", lambda v: v.float()),
            r"begin: log q\(z\|x\) is torch.float32, not torch.float64",
        ),
        (Codec, "begin", _term("log_prior", lambda v: v[:, None]), r"begin: log p\(z\) has shape \(8, 1\), not \(8,\)"),
        (Codec, "begin", _term("log_prior", lambda v: v.to("meta")), r"begin: log p\(z\) is on meta, the model on cpu"),
        (Codec, "begin", _term("log_prior", lambda v: v.numpy()), r"begin: log p\(z\) is a ndarray, no tensor"),
        (
            Codec,
            "begin",
            _walk(level=torch.zeros(8, dtype=torch.int64)),
            "begin gives levels, but the family has levels = 0",
        ),
        (Codec, "latent_terms", _raise, "begin raises RuntimeError: out of luck"),
        (Codec, "observe", _raise, "observe raises RuntimeError: out of luck"),
        (Codec, "observe", lambda found: found.logits, "observe returns a Tensor, no distribution"),
        (Codec, "observe", _logits(lambda v: v[:, :5]), r"log_prob of the distribution of observe raises"),
        (Codec, "observe", _logits(lambda v: v[:1, :, None]), r"log_prob of the distribution of observe raises"),
        (Codec, "observe", _logits(_one_nan), r"observe: log p\(x_i\|z\) of row 3 is nan"),
        (Codec, "observe", _logits(lambda v: v + 1), r"observe gives row 0 another p\(x\|z\) than decode of its z"),
        (Stepped, "begin", _walk(level=None), "the family has levels = 2, but begin gives no level"),
        (Stepped, "begin", _walk(below=torch.zeros(8)), "begin: below is torch.float32, not torch.int64"),
        (Stepped, "begin", _walk(level=torch.full((8,), 3)), "begin: level of draw 0 is 3, of levels = 2"),
        (Stepped, "advance", _raise, "advance raises RuntimeError: out of luck"),
        (Stepped, "advance", _walk(level=torch.full((8,), 2)), "advance leaves row 0 at level 2"),
        (Stepped, "advance", _z(lambda z: z.double()), "advance: z is torch.float64, not torch.float32"),
        (Stepped, "advance", _z(_one_nan), "advance: z of row 3 is nan"),
        (Stepped, "advance", _term("log_q", lambda v: v[1:]), r"advance: log q\(z\|x\) has shape \(7,\), not \(8,\)"),
        (Stepped, "advance", _term("log_prior", lambda v: v + 1), "closed form differs from the mean"),
    ],
)
def test_a_method_that_raises_or_returns_what_it_must_not_is_named(
    kind: type[Codec], method: str, change: Change, reason: str
) -> None:
    with pytest.raises(RefusedModel, match=f"not published: .*{reason}"):
        check_model(_after(kind, method, change)(), _rows(BITS)[:, :2].flatten(1)[:, :6])


def test_draws_that_are_none_of_the_integers_that_a_family_claims_are_found_out() -> None:
    class Integral(Codec):
        latent_levels = 3

    with pytest.raises(RefusedModel, match="none of the integers below latent_levels = 3"):
        check_model(Integral(), _rows(BITS)[:, :2].flatten(1)[:, :6])


def test_levels_that_a_family_does_not_have_are_found_out() -> None:
    """`levels` alone, without `begin` and `advance` that know of them."""

    class Claims(Codec):
        levels = 3

    class Unfinished(Stepped):
        advance = Codec.advance

    for kind, reason in (
        (Claims, "the family has levels = 3, but begin gives no level"),
        (Unfinished, "advance raises NotImplementedError: family 'codec' has no levels"),
    ):
        with pytest.raises(RefusedModel, match=reason):
            check_model(kind(), _rows(BITS)[:, :2].flatten(1)[:, :6])
