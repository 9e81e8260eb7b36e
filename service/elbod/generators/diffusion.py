"""`diffusion`: a chain of noisier and noisier latents with a fixed encoder, and a network that believes in less noise.

    q(z_T|x), q(z_b|z_l, x)   fixed normals around f = (x - shift)/scale (`chain`)
    p(z_T) = N(0, I),   p(z_b|z_l) = N(A z_l + F m, V + F^2 v)
    p(x|z_0) = product over j of post_j(x_j | z_0)

The network maps z_l and its level to a belief pi_j about each element, a likelihood like any other, and Bayes' rule
with the element's own noisy value makes of it post_j, whose mean m and variance v are those of p (`belief`). The
variance is per element, so a few dozen levels do what fixed variances need a thousand for (Sohl-Dickstein et al.,
"Deep unsupervised learning using nonequilibrium thermodynamics", ICML 2015; Ho, Jain and Abbeel, "Denoising diffusion
probabilistic models", NeurIPS 2020; Kingma et al., "Variational diffusion models", NeurIPS 2021; Bao et al.,
"Analytic-DPM", ICLR 2022).

    log p(x) >= E_q[log p(x|z_0)] - KL_T - sum over levels of E_q[KL(q(z_{l-1}|z_l, x) || p(z_{l-1}|z_l))]

One draw is a whole path z_T ... z_0, scored by its sampled log weight; H[q] is the same number for every x. Every term
is float64, at z as a float32, and separates over elements; only training takes discretized logistics in float32
(`logistic_posterior`).

With labels the network is told the class y, or that there is none: a null label stands for a share of the training
rows, so one network holds two models, and bounds log p(x|y) and log p(x) (Ho and Salimans, "Classifier-free diffusion
guidance", 2022).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, final

import torch
from torch import Tensor, nn

from elbod.generators import chain, labels, profile
from elbod.generators.base import Blueprint, Walk
from elbod.generators.chain import Chain, ChainPosterior, conditional_terms, step_terms
from elbod.generators.denoiser import Denoiser
from elbod.generators.noise import blocks_of
from elbod.generators.posteriors import DiagonalNormal, Posterior
from elbod.generators.priors import StandardNormal
from elbod.generators.residual import ResidualMLP, ResidualUNet
from elbod.generators.strata import level_weights
from elbod.generators.terms import Conditional, PathTerms, summed

# Beyond them float32 latents are all noise or have none.
_GAMMA_LIMIT = 20.0
_MAX_LEVELS = 4096


@dataclass(frozen=True, kw_only=True)
class DiffusionSpec:
    """`num_levels` T between log signal-to-noise ratios -gamma_min and -gamma_max, and the network.

    `mlp` networks have `blocks` residual blocks of `width`; `conv` ones, over images, `blocks` a stage of `channels[i]`
    channels, after blocks of `patch` x `patch` pixels became channels. `dropout` acts while training only.
    `reverse_variance` `fixed` sets v = 0 in p(z_b|z_l), as the cited models have it: a far worse bound.
    With a `label_dropout` the model is conditional on labels, and that share of training rows has the null label.
    """

    num_levels: int = 32
    schedule: Literal["linear", "cosine", "learned"] = "linear"
    gamma_min: float = -5.0
    gamma_max: float = 5.0
    network: Literal["mlp", "conv"] = "mlp"
    width: int = 192
    channels: tuple[int, ...] = (32,)
    patch: int = 1
    blocks: int = 3
    dropout: float = 0.1
    reverse_variance: Literal["belief", "fixed"] = "belief"
    label_dropout: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_levels <= _MAX_LEVELS:
            raise ValueError(
                f"num_levels must be 1 ... {_MAX_LEVELS}, got {self.num_levels}: without levels there is no diffusion"
            )
        if not -_GAMMA_LIMIT <= self.gamma_min < self.gamma_max <= _GAMMA_LIMIT:
            raise ValueError(
                f"gamma_min must be less than gamma_max, both within -{_GAMMA_LIMIT:g} ... {_GAMMA_LIMIT:g}, "
                f"got {self.gamma_min} and {self.gamma_max}"
            )
        if not self.channels or min(self.width, self.patch, self.blocks, *self.channels) < 1:
            raise ValueError(
                f"sizes must be positive: width={self.width}, channels={self.channels}, patch={self.patch}, "
                f"blocks={self.blocks}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.label_dropout is not None and not 0 < self.label_dropout < 1:
            raise ValueError(
                f"label_dropout must be between 0 and 1, got {self.label_dropout}: rows without label teach p(x)"
            )


@final
class Diffusion(Denoiser):
    family = "diffusion"
    Spec = DiffusionSpec

    gamma: Tensor
    profile: Tensor
    label_log_probs: Tensor

    def __init__(self, blueprint: Blueprint, spec: DiffusionSpec) -> None:
        fixed_variance = spec.reverse_variance == "fixed"
        super().__init__(blueprint, math.prod(blueprint.event_shape), fixed_variance=fixed_variance)
        self.kl_estimator = "monte_carlo"
        self.levels = spec.num_levels
        if (self.levels + 1) * blocks_of(self.latent_dim) > 2**32:
            raise ValueError(f"{self.latent_dim} elements at {self.levels} levels need more noise than a draw has")
        self._ends = spec.gamma_min, spec.gamma_max
        self._labels, self._label_dropout = blueprint.labels or (), spec.label_dropout or 0.0
        self.network = self._network(spec)
        self.increments = nn.Parameter(torch.zeros(self.levels)) if spec.schedule == "learned" else None
        make = chain.cosine if spec.schedule == "cosine" else chain.linear
        self.register_buffer("gamma", make(*self._ends, self.levels))
        # Root mean squares of log p(x|z_0) and of the KL from each level 1 ... T: what levels are sampled by.
        self.register_buffer("profile", torch.ones(self.levels + 1, dtype=torch.float64))
        if self.conditional:
            self.register_buffer("label_log_probs", labels.uniform(len(self._labels)))

    def _network(self, spec: DiffusionSpec) -> nn.Module:
        parameters, classes = self.likelihood.parameters, len(self._labels) + self.conditional
        if spec.network == "conv":
            sizes = (spec.channels, spec.patch, spec.blocks)
            return ResidualUNet(self.event_shape, *sizes, parameters, spec.dropout, classes)
        outputs = self.latent_dim * parameters
        return ResidualMLP(self.latent_dim, spec.width, spec.blocks, outputs, spec.dropout, classes)

    @classmethod
    def build(cls, blueprint: Blueprint, spec: DiffusionSpec) -> Self:
        return cls(blueprint, spec)

    @classmethod
    def takes_labels(cls, spec: DiffusionSpec) -> bool:
        return spec.label_dropout is not None

    def label_log_prob(self) -> Tensor | None:
        return self.label_log_probs if self.conditional else None

    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        """Also p(y). Raises ValueError for a class without a training row."""
        if self.conditional:
            self.label_log_probs = labels.log_frequencies(label, self._labels)
        super().initialize(x)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Raises ValueError unless gamma ascends within its limits, no number of the profile is negative, and p(y) sums
        to 1."""
        found = super().load_state_dict(state_dict, strict, assign)
        _check_gamma(self.gamma)
        if not (self.profile.isfinite() & (self.profile >= 0)).all():
            raise ValueError("profile must be finite and not negative: levels are sampled by it")
        if self.conditional:
            labels.check_probabilities(self.label_log_probs)
        return found

    def prepare(self) -> None:
        if self.increments is not None:
            with torch.no_grad():
                self.gamma.copy_(chain.learned(*self._ends, self.increments))
            _check_gamma(self.gamma)

    @property
    def latent_structure(self) -> str:
        return f"{self.latent_dim} numbers at each of {self.levels + 1} levels of noise, drawn one after the other"

    @property
    def log_snr(self) -> Tensor:
        return -self.gamma

    @property
    def entropy(self) -> Tensor:
        return self.chain.entropy(self.latent_dim)

    def first_kl(self, q: Posterior) -> Tensor:
        assert isinstance(q, ChainPosterior)
        return q.chain.first_conditional(q.f).kl.sum(-1)

    @property
    def level_weights(self) -> Tensor:
        return torch.from_numpy(level_weights(self.profile[1:].cpu().numpy()))

    def keep_profile(self, reconstruction: Tensor, kl: Tensor) -> None:
        terms = torch.cat([reconstruction[:, None], kl], 1).double()
        self.profile.copy_((terms**2).mean(0).sqrt())

    @property
    def chain(self) -> Chain:
        if self.training and self.increments is not None:
            return Chain(chain.learned(*self._ends, self.increments))
        return Chain(self.gamma)

    def encode(self, x: Tensor, label: Tensor | None = None) -> ChainPosterior:
        return ChainPosterior(self.chain, self.standardized(x))

    def posterior(self, parameters: Mapping[str, Tensor]) -> ChainPosterior:
        return ChainPosterior(self.chain, parameters["f"])

    def prior(self) -> StandardNormal:
        """p(z_T)."""
        return StandardNormal(self.latent_dim)

    def begin(
        self, q: Posterior | None, noise: Tensor, temperature: Tensor | float = 1.0
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        """z_T. A chain has no temperature: it is 1."""
        if q is None:
            return self._at_top(noise.float()), None
        walk, path = self.begin_by_element(q, noise)
        return walk, summed(path)

    def begin_by_element(self, q: Posterior, noise: Tensor) -> tuple[Walk, PathTerms[Tensor]]:
        assert isinstance(q, ChainPosterior)
        walk = self._at_top(q.draw(noise).float())
        return walk, q.chain.first_terms(walk.z.double(), q.f)

    def advance(
        self,
        walk: Walk,
        q: Posterior | None,
        noise: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        if q is not None:
            after, path = self.advance_by_element(walk, q, noise, label)
            return after, summed(path)
        level, below = _places(walk)
        step, (m, v) = self.chain.step(level, below), self.guided(walk.z, level, label, guidance)
        width = step.variance + step.pull**2 * v
        z = step.mean(walk.z.double(), m) + width.sqrt() * noise
        return _arrived(z, below), None

    def advance_by_element(
        self, walk: Walk, q: Posterior, noise: Tensor, label: Tensor | None = None
    ) -> tuple[Walk, PathTerms[Tensor]]:
        assert isinstance(q, ChainPosterior)
        level, below = _places(walk)
        after = self.descend(walk, q, noise)
        m, v = self.denoise(walk.z, level, label)
        step = q.chain.step(level, below)
        return after, step_terms(step, walk.z.double(), after.z.double(), q.f, m, v)

    def descend(self, walk: Walk, q: Posterior, noise: Tensor) -> Walk:
        assert isinstance(q, ChainPosterior)
        level, below = _places(walk)
        step = q.chain.step(level, below)
        return _arrived(step.mean(walk.z.double(), q.f) + step.variance.sqrt() * noise, below)

    def marginal(self, q: Posterior, level: Tensor) -> DiagonalNormal:
        assert isinstance(q, ChainPosterior)
        return q.at(level)

    def visit(self, q: Posterior, level: Tensor, noise: Tensor) -> Walk:
        return _arrived(self.marginal(q, level).draw(noise), level)

    def level_terms(self, walk: Walk, q: Posterior, label: Tensor | None = None) -> Conditional[Tensor]:
        assert isinstance(q, ChainPosterior)
        level, below = _places(walk)
        m, v = self.denoise(walk.z, level, label)
        return summed(conditional_terms(q.chain.step(level, below), q.f, m, v))

    def follow(self, walk: Walk, label: Tensor | None = None, guidance: Tensor | None = None) -> Walk:
        """z_below = a_below m + s_below eps with z = a m + s eps: one deterministic step (Song, Meng and Ermon, "DDIM",
        ICLR 2021). What it draws has no bound here."""
        level, below = _places(walk)
        m, _ = self.guided(walk.z, level, label, guidance)
        steps = self.chain
        share = (steps.noise_variance(below) / steps.noise_variance(level)).sqrt()
        return _arrived(steps.signal(below) * m + share * (walk.z.double() - steps.signal(level) * m), below)

    @property
    def objective_noise_dimensions(self) -> int:
        """One number that places the levels, the noise of a latent, and one that hides a label."""
        return 1 + self.latent_dim + self.conditional

    def objective(self, x: Tensor, noise: Tensor, beta: float | Tensor, label: Tensor | None = None) -> Tensor:
        """The bound at one level a row, (n,), in one pass; its mean over u is the bound of each row.

        Row b has the level i of F^-1((u + b/n) mod 1): together the rows cover the levels evenly. Its term, r at level
        0 and -KL_i above, is divided by the weight w_i that it has in F. `update_buffers` lets the weights follow a
        running mean of the terms' squares.
        """
        values, _ = self.objective_of_part(x, self.stratified(noise), beta, label)
        return values

    def stratified(self, noise: Tensor) -> Tensor:
        """Row b's first number is its place (u + b/n) mod 1 instead, with the u of row 0; float64."""
        places = profile.stratified(torch.special.ndtr(noise[0, 0].double()), len(noise))
        return torch.cat([places[:, None], noise[:, 1:].double()], 1)

    def objective_of_part(
        self, x: Tensor, noise: Tensor, beta: float | Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if label is not None and self.training:
            hidden = torch.special.ndtr(noise[:, -1]) < self._label_dropout
            label = label.masked_fill(hidden, len(self._labels))
        q, weights = self.encode(x), profile.weights_of(self.profile)
        level = profile.levels_at(noise[:, 0], weights)
        walk = self.visit(q, level, noise[:, 1 : 1 + self.latent_dim])
        m, v, log_prob = self.moments_and_log_prob(walk.z, level, label, x)
        # Rows at level 0 take a step as well, which does not count.
        start = level.clamp(min=1)
        kl = conditional_terms(q.chain.step(start, start - 1), q.f, m, v).kl.sum(-1)
        terms = torch.where(level == 0, log_prob.sum(-1), -beta * kl)
        return terms / weights[level] - beta * self.first_kl(q), profile.statistics(self.levels, level, terms.detach())

    @torch.no_grad()
    def update_buffers(self, statistics: Sequence[Tensor]) -> None:
        rows, squares = statistics
        self.profile.copy_(profile.updated(self.profile, rows, squares))

    def _at_top(self, z: Tensor) -> Walk:
        level = torch.full((len(z),), self.levels, device=z.device)
        return Walk(z, level, level - 1)


def _places(walk: Walk) -> tuple[Tensor, Tensor]:
    assert walk.level is not None
    assert walk.below is not None
    return walk.level, walk.below


def _arrived(z: Tensor, level: Tensor) -> Walk:
    return Walk(z.float(), level, level - 1)


def _check_gamma(gamma: Tensor) -> None:
    if not (gamma.isfinite().all() and (gamma.diff() > 0).all() and (gamma.abs() <= _GAMMA_LIMIT).all()):
        raise ValueError(
            f"gamma must be finite and ascend from level 0 to level T within -{_GAMMA_LIMIT:g} ... {_GAMMA_LIMIT:g}: "
            "the levels of noise are out of order"
        )
