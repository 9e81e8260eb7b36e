"""`ladder`: a top-down hierarchical variational auto-encoder with residual Gaussian posteriors.

    p(z) = product over l of p(z_l | z_1 ... z_{l-1}),   p(z_l | .) = N(mean_l, diag(stddev_l^2))
    q(z|x) = product over l of N(mean_l + stddev_l a_l(x, .), diag(stddev_l^2 b_l(x, .)^2))
    p(x|z): a likelihood whose parameters are a network of the last state

z_1 is the coarsest group, drawn first. The posterior shares the top-down path with the prior and moves its mean by a
prior standard deviations (Sønderby et al., "Ladder variational autoencoders", NeurIPS 2016; Vahdat and Kautz, "NVAE",
NeurIPS 2020; Child, "Very deep VAEs", ICLR 2021), so that KL(q_l || p_l) = sum (a^2 + b^2 - 1)/2 - log b whatever the
prior is. Given the groups above, every term of the bound that does not involve x is closed-form.

z is one vector (n, latent_dim): the groups one after the other, the coarsest first, each channels x height x width.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from elbod.generators.base import Blueprint, Generator, Walk
from elbod.generators.convolutional import (
    ImageEncoder,
    PixelHead,
    ResidualBlock,
    Upsample,
    silent,
    stage_sizes,
    widened,
)
from elbod.generators.likelihoods import Observation
from elbod.generators.posteriors import Posterior
from elbod.generators.priors import Prior
from elbod.generators.terms import Conditional, PathTerms, Sampled

# Of the prior's stddev, and of the posterior's as a share of it.
_MIN_LOG_STDDEV, _MAX_LOG_STDDEV = -5.0, 3.0
_LOG_2PI = math.log(2 * math.pi)

# A stage: every draw walks through them all, one after the other.
_MAX_GROUPS = 256


@dataclass(frozen=True, kw_only=True)
class LadderSpec:
    """Per stage, the finest first: channels, groups of latents, and channels of a group.

    `blocks` residual blocks a stage on the way up.
    """

    channels: tuple[int, ...] = (48, 96)
    groups: tuple[int, ...] = (2, 4)
    latent_channels: tuple[int, ...] = (2, 8)
    blocks: int = 1

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.groups) == len(self.latent_channels) > 0:
            raise ValueError("channels, groups and latent_channels must have one entry a stage")
        if min(*self.channels, *self.latent_channels, self.blocks) < 1 or min(self.groups) < 0:
            raise ValueError("channels, latent_channels and blocks must be positive, groups not negative")
        if max(self.groups) > _MAX_GROUPS:
            raise ValueError(f"a stage has at most {_MAX_GROUPS} groups, not {max(self.groups)}")
        if self.groups[-1] < 1:
            raise ValueError("the coarsest stage, the last one, needs a group")


@dataclass(frozen=True)
class GroupDistribution:
    """p(z_l | z above) and, with x, q(z_l | z above, x) relative to it: each (n, dims).

    q = N(mean + stddev shift, (stddev exp(log_ratio))^2), p = N(mean, stddev^2); shift and log_ratio None without x.
    """

    mean: Tensor
    log_stddev: Tensor
    shift: Tensor | None
    log_ratio: Tensor | None

    def draw_prior(self, noise: Tensor, temperature: Tensor | float) -> Tensor:
        return self.mean + temperature * self.log_stddev.exp() * noise

    def draw_posterior(self, noise: Tensor, temperature: Tensor | float) -> Tensor:
        assert self.shift is not None
        assert self.log_ratio is not None
        stddev = self.log_stddev.exp()
        return self.mean + stddev * self.shift + temperature * (self.log_stddev + self.log_ratio).exp() * noise

    def double(self) -> "GroupDistribution":
        shift, ratio = self.shift, self.log_ratio
        return GroupDistribution(
            self.mean.double(),
            self.log_stddev.double(),
            None if shift is None else shift.double(),
            None if ratio is None else ratio.double(),
        )

    def log_prior(self, z: Tensor) -> Tensor:
        return _log_normal(z, self.mean, self.log_stddev)

    def log_q(self, z: Tensor) -> Tensor:
        assert self.shift is not None
        assert self.log_ratio is not None
        return _log_normal(z, self.mean + self.log_stddev.exp() * self.shift, self.log_stddev + self.log_ratio)

    def kl(self) -> Tensor:
        """KL(q_l || p_l) = sum (shift^2 + ratio^2 - 1)/2 - log ratio, (n,)."""
        assert self.shift is not None
        assert self.log_ratio is not None
        return (0.5 * (self.shift**2 + torch.expm1(2 * self.log_ratio)) - self.log_ratio).sum(-1)

    def expected_log_prior(self) -> Tensor:
        """E_q_l[log p_l] = -sum log stddev + log(2 pi)/2 + (shift^2 + ratio^2)/2, (n,)."""
        assert self.shift is not None
        assert self.log_ratio is not None
        second_moment = self.shift**2 + torch.exp(2 * self.log_ratio)
        return -(self.log_stddev + 0.5 * (_LOG_2PI + second_moment)).sum(-1)

    def entropy(self) -> Tensor:
        """H[q_l] = sum log(stddev ratio) + log(2 pi e)/2, (n,)."""
        assert self.log_ratio is not None
        return (self.log_stddev + self.log_ratio + 0.5 * (_LOG_2PI + 1)).sum(-1)


def _log_normal(z: Tensor, mean: Tensor, log_stddev: Tensor) -> Tensor:
    return -(0.5 * ((z - mean) * torch.exp(-log_stddev)) ** 2 + log_stddev + 0.5 * _LOG_2PI).sum(-1)


class _Group(nn.Module):
    """One group of latents: from the state above to p, with features of x to q, and with z to the next state."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.prior = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            silent(nn.Conv2d(channels, 2 * latent_channels + channels, 1)),
        )
        self.posterior = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.SiLU(),
            silent(nn.Conv2d(channels, 2 * latent_channels, 1)),
        )
        self.merge = nn.Conv2d(latent_channels, channels, 1)
        self.after = ResidualBlock(channels)

    def conditional(self, h: Tensor, features: Tensor | None) -> tuple[GroupDistribution, Tensor]:
        """p and q of this group, and what the prior's path adds to the state."""
        c = self.latent_channels
        mean, log_stddev, carried = self.prior(h).split([c, c, h.shape[1]], dim=1)
        shift = log_ratio = None
        if features is not None:
            shift, log_ratio = self.posterior(torch.cat([h, features], dim=1)).chunk(2, dim=1)
            shift, log_ratio = _flat(shift), _flat(log_ratio).clamp(_MIN_LOG_STDDEV, _MAX_LOG_STDDEV)
        clamped = _flat(log_stddev).clamp(_MIN_LOG_STDDEV, _MAX_LOG_STDDEV)
        return GroupDistribution(_flat(mean), clamped, shift, log_ratio), carried

    def step(self, h: Tensor, carried: Tensor, z: Tensor) -> Tensor:
        height, width = h.shape[2:]
        # Contiguous first: a slice of all groups has other strides than a draw, and with them other kernels.
        image = z.contiguous().unflatten(1, (self.latent_channels, height, width)).to(h.dtype)
        state: Tensor = self.after(h + carried + self.merge(image.contiguous(memory_format=torch.channels_last)))
        return state


def _flat(maps: Tensor) -> Tensor:
    return widened(maps.flatten(1))


# z of one group, from its place in z and its conditionals.
_Choice = Callable[[slice, GroupDistribution], Tensor]


@dataclass(frozen=True)
class LadderPosterior(Posterior):
    """q(z|x), given by the features of x; what it is at one group depends on the groups drawn above it."""

    ladder: "Ladder"
    features: tuple[Tensor, ...]
    family: ClassVar[str] = "ladder"
    closed_form: ClassVar[bool] = False

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {f"features_{i}": value for i, value in enumerate(self.features)}

    @property
    def noise_dimensions(self) -> int:
        return self.ladder.latent_dim

    def double(self) -> "LadderPosterior":
        return self

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        def choose(at: slice, group: GroupDistribution) -> Tensor:
            return group.draw_posterior(noise[:, at].to(group.mean.dtype), temperature)

        return self.ladder.descend(len(noise), choose, self.features).z

    def log_prob(self, z: Tensor) -> Tensor:
        return self.ladder.latent_terms(self, z).sampled.log_q


@dataclass(frozen=True)
class LadderPrior(Prior):
    """p(z); temperature scales every conditional's standard deviation."""

    ladder: "Ladder"

    @property
    def noise_dimensions(self) -> int:
        return self.ladder.latent_dim

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        def choose(at: slice, group: GroupDistribution) -> Tensor:
            return group.draw_prior(noise[:, at].to(group.mean.dtype), temperature)

        return self.ladder.descend(len(noise), choose).z

    def log_prob(self, z: Tensor) -> Tensor:
        groups = self.ladder.descend(len(z), self.ladder.given(z)).groups
        pairs = zip(self.ladder.places, groups, strict=True)
        return _total(group.double().log_prior(z[:, at].double()) for at, group in pairs)


@dataclass(frozen=True)
class _Descent:
    """A walk from the coarsest group down: all of z, the groups' conditionals, and the last state."""

    z: Tensor
    groups: Sequence[GroupDistribution]
    state: Tensor

    def terms(self, places: Sequence[slice]) -> PathTerms[Tensor]:
        """Float64 sums over groups of every term that does not involve x."""
        z = self.z.double()
        pairs = [(z[:, at], group.double()) for at, group in zip(places, self.groups, strict=True)]
        return PathTerms(
            Sampled(
                log_prior=_total(group.log_prior(part) for part, group in pairs),
                log_q=_total(group.log_q(part) for part, group in pairs),
            ),
            Conditional(
                kl=_total(group.kl() for _, group in pairs),
                log_prior=_total(group.expected_log_prior() for _, group in pairs),
                entropy=_total(group.entropy() for _, group in pairs),
            ),
        )


@final
class Ladder(Generator):
    family = "ladder"
    Spec = LadderSpec

    shift: Tensor
    scale: Tensor

    def __init__(self, blueprint: Blueprint, spec: LadderSpec) -> None:
        sizes = stage_sizes(blueprint.event_shape, len(spec.channels))
        # Stages from the coarsest down, as they are drawn.
        plan = [
            (spec.channels[i], spec.latent_channels[i], spec.groups[i], sizes[i])
            for i in reversed(range(len(spec.channels)))
        ]
        dims = [latent * h * w for _, latent, count, (h, w) in plan for _ in range(count)]
        super().__init__(blueprint, sum(dims))
        self.kl_estimator = "conditional"
        self._structure = [f"{count} of {latent} x {h} x {w}" for _, latent, count, (h, w) in plan if count]
        ends = [sum(dims[: i + 1]) for i in range(len(dims))]
        self.places = tuple(slice(end - size, end) for size, end in zip(dims, ends, strict=True))
        self.encoder = ImageEncoder(self.event_shape, spec.channels, spec.blocks)
        coarsest = plan[0]
        self.top = nn.Parameter(torch.zeros(1, coarsest[0], *coarsest[3]))
        self.stem = nn.Conv2d(coarsest[0], coarsest[0], 1)
        self.groups = nn.ModuleList(
            nn.ModuleList(_Group(channels, latent) for _ in range(count)) for channels, latent, count, _ in plan
        )
        self.finer = nn.ModuleList(Upsample(above[0], below[0], below[3]) for above, below in itertools.pairwise(plan))
        self.head = PixelHead(plan[-1][0], self.event_shape, self.likelihood.parameters)
        self.register_buffer("shift", torch.zeros(self.event_shape))
        self.register_buffer("scale", torch.ones(self.event_shape))

    @classmethod
    def build(cls, blueprint: Blueprint, spec: LadderSpec) -> Self:
        return cls(blueprint, spec)

    @property
    def latent_structure(self) -> str:
        return f"{self.latent_dim} numbers, in groups drawn one after the other: {', then '.join(self._structure)}"

    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        shift, scale = self.likelihood.standardization(x)
        self.shift, self.scale = shift.to(self.shift.dtype), scale.to(self.scale.dtype)

    def encode(self, x: Tensor, label: Tensor | None = None) -> LadderPosterior:
        standardized = (x.to(self.shift.dtype) - self.shift) / self.scale
        return LadderPosterior(self, tuple(self.encoder(standardized.to(self.top.dtype))))

    def posterior(self, parameters: Mapping[str, Tensor]) -> LadderPosterior:
        return LadderPosterior(self, tuple(parameters[f"features_{i}"] for i in range(len(parameters))))

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        return self._observe(self.descend(len(z), self.given(z)).state)

    def prior(self) -> LadderPrior:
        return LadderPrior(self)

    def latent_terms(self, q: Posterior, z: Tensor) -> PathTerms[Tensor]:
        assert isinstance(q, LadderPosterior)
        return self.descend(len(z), self.given(z), q.features).terms(self.places)

    def begin(
        self, q: Posterior | None, noise: Tensor, temperature: Tensor | float = 1.0
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        """One descent, whose last state is what `observe` reads."""
        assert q is None or isinstance(q, LadderPosterior)

        def choose(at: slice, group: GroupDistribution) -> Tensor:
            draw = group.draw_prior if q is None else group.draw_posterior
            return draw(noise[:, at].to(group.mean.dtype), temperature).float()

        descent = self.descend(len(noise), choose, None if q is None else q.features)
        return Walk(descent.z, state=descent.state), None if q is None else descent.terms(self.places)

    def observe(self, walk: Walk, label: Tensor | None = None) -> Observation:
        return self.decode(walk.z) if walk.state is None else self._observe(walk.state)

    def objective(self, x: Tensor, noise: Tensor, beta: float | Tensor, label: Tensor | None = None) -> Tensor:
        def choose(at: slice, group: GroupDistribution) -> Tensor:
            return group.draw_posterior(noise[:, at], 1.0)

        descent = self.descend(len(x), choose, self.encode(x).features)
        kl = _total(group.kl() for group in descent.groups)
        return self._observe(descent.state).log_prob(x).flatten(1).sum(-1) - beta * kl

    def given(self, z: Tensor) -> _Choice:
        """The choice of latents that are known."""
        return lambda at, group: z[:, at]

    def descend(self, rows: int, choose: _Choice, features: Sequence[Tensor] | None = None) -> _Descent:
        """Walk down from the coarsest group; `choose` says what z of each group is, `features` are the finest first."""
        h = self.stem(self.top).expand(rows, -1, -1, -1)
        parts: list[Tensor] = []
        conditionals: list[GroupDistribution] = []
        for stage, groups in enumerate(self.groups):
            if stage:
                h = self.finer[stage - 1](h)
            assert isinstance(groups, nn.ModuleList)
            for group in groups:
                assert isinstance(group, _Group)
                conditional, carried = group.conditional(h, None if features is None else features[-1 - stage])
                z = choose(self.places[len(parts)], conditional)
                h = group.step(h, carried, z)
                parts.append(z)
                conditionals.append(conditional)
        return _Descent(torch.cat(parts, dim=1), conditionals, h)

    def _observe(self, state: Tensor) -> Observation:
        return self.likelihood.observe(self.head(state), self.shift, self.scale)


def _total(terms: Iterable[Tensor]) -> Tensor:
    """The sum over groups, the coarsest first."""
    return torch.stack(list(terms)).sum(0)
