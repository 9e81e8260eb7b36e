"""The chain of latents of a diffusion model in float64: its schedules, its fixed encoder, and what a pass contributes.

Levels are i = 0 (least noise) ... T (noise); gamma_i ascends and is minus the log signal-to-noise ratio:

    a_i^2 = sigmoid(-gamma_i),   s_i^2 = sigmoid(gamma_i),   SNR_i = a_i^2 / s_i^2 = exp(-gamma_i)
    q(z_i|x) = N(a_i f, s_i^2 I),          f = (x - shift) / scale
    q(z_b|z_l, x) = N(A z_l + F f, V I)    from level l to any level b below it
    p(z_b|z_l)    = N(A z_l + F m, V + F^2 v)     m, v: mean and variance of f_j that a network believes in at z_l
    with e = exp(gamma_b - gamma_l):  A = (a_b/a_l) e,  F = a_b (1 - e),  V = (1 - e) s_b^2,  F^2/V = SNR_b - SNR_l

(Kingma, Salimans, Poole and Ho, "Variational diffusion models", NeurIPS 2021). p does not depend on where else the
chain stops, so every subset of the levels with both ends is a model.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from elbod.generators.posteriors import DiagonalNormal, Posterior
from elbod.generators.terms import Conditional, PathTerms, Sampled

_LOG_2PI = math.log(2 * math.pi)


def linear(lowest: float, highest: float, levels: int) -> Tensor:
    """gamma (levels + 1,) in equal steps."""
    return torch.linspace(lowest, highest, levels + 1, dtype=torch.float64)


def cosine(lowest: float, highest: float, levels: int) -> Tensor:
    """gamma = 2 log tan(pi t/2), equal steps of t (Nichol and Dhariwal, ICML 2021), cut to lowest ... highest."""
    first, last = (2 / math.pi * math.atan(math.exp(gamma / 2)) for gamma in (lowest, highest))
    t = torch.linspace(first, last, levels + 1, dtype=torch.float64)
    return 2 * torch.log(torch.tan(math.pi / 2 * t))


def learned(lowest: float, highest: float, increments: Tensor) -> Tensor:
    """gamma in steps proportional to softplus of `increments` (levels,)."""
    steps = F.softplus(increments.double())
    inner = lowest + (highest - lowest) * (steps.cumsum(0) / steps.sum())[:-1]
    return torch.cat([inner.new_tensor([lowest]), inner, inner.new_tensor([highest])])


def grid(levels: int, steps: int) -> tuple[int, ...]:
    """The levels round(j T/T'), j = 0 ... T', of a chain of T levels in T' steps, ascending; halves round up.

    Raises ValueError unless 1 <= T' <= T.
    """
    if not 1 <= steps <= levels:
        raise ValueError(f"a chain of {levels} levels has 1 to {levels} steps, not {steps}")
    return tuple((2 * j * levels + steps) // (2 * steps) for j in range(steps + 1))


@dataclass(frozen=True)
class Step:
    """q(z_b|z_l, x) = N(carry z_l + pull f, variance I) and gain = pull^2 / variance of n rows, (n, 1) each."""

    carry: Tensor
    pull: Tensor
    variance: Tensor
    gain: Tensor

    def mean(self, z: Tensor, f: Tensor) -> Tensor:
        return self.carry * z + self.pull * f


@dataclass(frozen=True)
class Chain:
    """What gamma (T+1,), float64, says of the latents. Levels are int64, one a row."""

    gamma: Tensor

    def signal(self, level: Tensor) -> Tensor:
        """a_level, (n, 1)."""
        return torch.sigmoid(-self.gamma[level]).sqrt()[:, None]

    def noise_variance(self, level: Tensor) -> Tensor:
        """s_level^2, (n, 1)."""
        return torch.sigmoid(self.gamma[level])[:, None]

    def step(self, level: Tensor, below: Tensor) -> Step:
        """From `level` to `below`, which is less."""
        change = (self.gamma[below] - self.gamma[level])[:, None]
        rest = -torch.expm1(change)
        signal, variance = self.signal(below), rest * self.noise_variance(below)
        # SNR_b (1 - e) without the difference of two large numbers.
        gain = torch.exp(-self.gamma[below])[:, None] * rest
        return Step(signal / self.signal(level) * change.exp(), signal * rest, variance, gain)

    def first_terms(self, z: Tensor, f: Tensor) -> PathTerms[Tensor]:
        """What z_T (n, D) contributes by element, p(z_T) = N(0, I)."""
        top = self._top(f)
        log_q = _log_normal(z, self.signal(top) * f, self.noise_variance(top))
        known = self.first_conditional(f)
        return PathTerms(Sampled(-0.5 * (z**2 + _LOG_2PI), log_q), known, known.entropy)

    def first_conditional(self, f: Tensor) -> Conditional[Tensor]:
        """KL(q(z_T|x) || p(z_T)), E_q[log p(z_T)] and H[q(z_T|x)] by element, (n, D)."""
        top = self._top(f)
        signal, log_variance = self.signal(top), F.logsigmoid(self.gamma[top])[:, None]
        square = signal**2 * f**2
        return Conditional(
            # (a^2 f^2 + s^2 - 1 - log s^2)/2 with s^2 - 1 = -a^2.
            kl=0.5 * (square - signal**2 - log_variance),
            log_prior=-0.5 * (_LOG_2PI + square + self.noise_variance(top)),
            entropy=(0.5 * (_LOG_2PI + 1 + log_variance)).expand_as(f),
        )

    def _top(self, f: Tensor) -> Tensor:
        return torch.full((len(f),), len(self.gamma) - 1, device=f.device)

    def entropy(self, dimensions: int) -> Tensor:
        """H[q(z_0 ... z_T|x)] = D/2 [(T+1) log 2 pi e + log s_T^2 + sum over i of log V_i], the same for every x."""
        levels = torch.arange(len(self.gamma), device=self.gamma.device)
        steps = self.step(levels[1:], levels[:-1])
        logs = steps.variance.log().sum() + F.logsigmoid(self.gamma[-1])
        return 0.5 * dimensions * (len(levels) * (_LOG_2PI + 1) + logs)


@dataclass(frozen=True)
class ChainPosterior(Posterior):
    """q(z_0 ... z_T|x), fixed by f (n, D), float64: nothing of it is learned but gamma. Draws are of z_T."""

    chain: Chain
    f: Tensor
    family: ClassVar[str] = "chain"
    closed_form: ClassVar[bool] = False

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"f": self.f}

    @property
    def noise_dimensions(self) -> int:
        """Of each level."""
        return self.f.shape[-1]

    def double(self) -> "ChainPosterior":
        return self

    def at(self, level: Tensor) -> DiagonalNormal:
        """q(z_level|x) = N(a f, s^2 I) at a level a row, (n,)."""
        return DiagonalNormal(
            self.chain.signal(level) * self.f, self.chain.noise_variance(level).sqrt().expand_as(self.f)
        )

    def draw(self, noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        return self.at(self._top).draw(noise, temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.at(self._top).log_prob(z.double())

    @property
    def _top(self) -> Tensor:
        return torch.full((len(self.f),), len(self.chain.gamma) - 1, device=self.f.device)


def step_terms(step: Step, z: Tensor, after: Tensor, f: Tensor, m: Tensor, v: Tensor) -> PathTerms[Tensor]:
    """What the pass from z to `after` contributes by element, (n, D).

    With rho = F^2 v / V: KL = [log1p(rho) + (1 + F^2 (f - m)^2/V)/(1 + rho) - 1]/2 by signal-to-noise ratios alone,
    the other terms by means and variances.
    """
    width = step.variance + step.pull**2 * v
    known = conditional_terms(step, f, m, v)
    return PathTerms(
        Sampled(
            log_prior=_log_normal(after, step.mean(z, m), width),
            log_q=_log_normal(after, step.mean(z, f), step.variance),
        ),
        known,
        known.entropy,
    )


def conditional_terms(step: Step, f: Tensor, m: Tensor, v: Tensor) -> Conditional[Tensor]:
    """KL(q || p), E_q[log p] and H[q] of a pass given z_l, by element, (n, D)."""
    rho = step.gain * v
    square = (f - m) ** 2
    width = step.variance + step.pull**2 * v
    return Conditional(
        kl=0.5 * (torch.log1p(rho) + (step.gain * square - rho) / (1 + rho)),
        log_prior=-0.5 * (_LOG_2PI + width.log() + (step.variance + step.pull**2 * square) / width),
        entropy=(0.5 * (_LOG_2PI + 1 + step.variance.log())).expand_as(square),
    )


def _log_normal(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((z - mean) ** 2 / variance + variance.log() + _LOG_2PI)
