"""What a network believes of each element at every level of noise, and what Bayes' rule makes of it: m, v, p(x|z_0).

Elements are standardized, f = (x - shift) / scale. The network maps z_l and its level to a belief pi_j about each of
them, in its own precision; with the element's own noisy value it becomes post_j, in float64 (`belief`).
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from elbod.generators import belief
from elbod.generators.base import Blueprint, Walk
from elbod.generators.chain import Chain
from elbod.generators.chained import Chained
from elbod.generators.likelihoods import (
    BernoulliObservation,
    CategoricalObservation,
    DiscretizedLogisticObservation,
    GaussianObservation,
    Observation,
)
from elbod.generators.logistic_posterior import logistic_posterior

_COUNTED_ROWS = 4096


class Denoiser(Chained):
    """A chain whose m and v are those of a network's beliefs; `fixed_variance` sets v = 0 in p(z_b|z_l).

    With labels the network is told the class, or the null label. Subclasses provide `network` and `chain`.
    """

    network: nn.Module
    shift: Tensor
    scale: Tensor
    correction: Tensor

    def __init__(self, blueprint: Blueprint, latent_dim: int, *, fixed_variance: bool) -> None:
        super().__init__(blueprint, latent_dim)
        belief.check_closed(self.likelihood)
        self._fixed_variance = fixed_variance
        zeros, ones = (make(self.event_shape, dtype=torch.float64) for make in (torch.zeros, torch.ones))
        self.register_buffer("shift", zeros)
        self.register_buffer("scale", ones)
        if self.likelihood.levels is not None:
            # Added to log pi: makes the training rows' frequencies the belief of the untrained network.
            self.register_buffer("correction", torch.zeros(*self.event_shape, self.likelihood.levels))

    @property
    @abstractmethod
    def chain(self) -> Chain:
        """The levels of noise."""

    @property
    def null_label(self) -> int | None:
        return None if self.blueprint.labels is None else len(self.blueprint.labels)

    @torch.no_grad()
    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        """The untrained model is that of independent elements, with their frequencies in the training rows."""
        shift, scale = self.likelihood.standardization(x)
        self.shift, self.scale = shift.to(self.shift.dtype), scale.to(self.scale.dtype)
        if self.likelihood.levels is None:
            return
        z = torch.zeros(1, self.latent_dim, device=self.shift.device)
        said = self._observe(self._outputs(z, torch.zeros(1, dtype=torch.int64, device=z.device), None))
        made = said.log_levels()[0].double()
        self.correction = (_log_frequencies(x, self.likelihood.levels) - made).float()

    def standardized(self, x: Tensor) -> Tensor:
        """f of rows, (n, D) float64."""
        # Bytes are cast before they are subtracted from.
        return ((x.to(self.shift.dtype) - self.shift) / self.scale).flatten(1)

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        """p(x|z_0)."""
        return self._believe(z, torch.zeros(len(z), dtype=torch.int64, device=z.device), label)

    def observe(self, walk: Walk, label: Tensor | None = None) -> Observation:
        """p(x|z_0) of draws at level 0; post(x_j|z_l) of each element elsewhere, whose mean is E_post[x]."""
        return self.decode(walk.z, label) if walk.level is None else self._believe(walk.z, walk.level, label)

    def denoise(self, z: Tensor, level: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """m and v of p at z (n, D) on a level a row, (n, D) float64 each: one pass of the network."""
        outputs = self._outputs(z, level, label)
        blocks = belief.row_blocks(len(z), self.latent_dim * (self.likelihood.levels or 1), z.device)
        found = [self._moments(self._posterior(self._observe(outputs[b]), z[b], level[b])) for b in blocks]
        m, v = zip(*found, strict=True)
        return torch.cat(m), torch.cat(v)

    def guided(self, z: Tensor, level: Tensor, label: Tensor | None, guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        """m = m_null + (1 + w)(m_y - m_null) and v of label y, w = `guidance` (n, 1): two evaluations of the network.

        The chain of these is no model that has been trained, and no bound is one of it.
        """
        m, v = self.denoise(z, level, label)
        if guidance is None:
            return m, v
        without, _ = self.denoise(z, level)
        return without + (1 + guidance) * (m - without), v

    def _moments(self, post: Observation) -> tuple[Tensor, Tensor]:
        m, v = (each.flatten(1) for each in belief.moments(post, self.shift, self.scale))
        return m, torch.zeros_like(v) if self._fixed_variance else v

    def moments_and_log_prob(
        self, z: Tensor, level: Tensor, label: Tensor | None, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """m, v and log post_j(x_j) of every element, (n, D) float64 each, for the objective."""
        said = self._observe(self._outputs(z, level, label))
        if not (self.training and isinstance(said, DiscretizedLogisticObservation)):
            post = self._posterior(said, z, level)
            return *self._moments(post), post.log_prob(x).flatten(1)
        shift, scale, signal = self.shift.flatten(), self.scale.flatten(), self.chain.signal(level)
        centre = z.double() / signal
        offset, variance, log_prob = logistic_posterior(
            said.location.flatten(1),
            said.log_scale.flatten(1),
            shift + scale * centre,
            0.5 * signal**2 / (self.chain.noise_variance(level) * scale**2),
            self.correction.flatten(0, -2),
            x.flatten(1),
        )
        v = variance.double() / scale**2
        return centre + offset / scale, torch.zeros_like(v) if self._fixed_variance else v, log_prob.double()

    def _believe(self, z: Tensor, level: Tensor, label: Tensor | None) -> Observation:
        """post_j(x_j|z_l) of every element, float64, (n, *event_shape)."""
        return self._posterior(self._observe(self._outputs(z, level, label)), z, level)

    def _posterior(self, said: Observation, z: Tensor, level: Tensor) -> Observation:
        rows = (len(z), *[1] * len(self.event_shape))
        steps = self.chain
        signal, variance = steps.signal(level).reshape(rows), steps.noise_variance(level).reshape(rows)
        noisy = z.double().reshape(len(z), *self.event_shape)
        return belief.posterior(self._corrected(said), noisy, signal, variance, (self.shift, self.scale))

    def belief(self, z: Tensor, level: Tensor, label: Tensor | None = None) -> Observation:
        """pi_j(x_j|z_l) of every element, float64: what the network says before the element's own value is used.

        Any function of z_l is a belief, so it is computed in the network's precision; post_j and what follows are not.
        """
        return self._corrected(self._observe(self._outputs(z, level, label)))

    def _corrected(self, said: Observation) -> Observation:
        if isinstance(said, GaussianObservation):
            return said.double()
        if isinstance(said, BernoulliObservation):
            return BernoulliObservation(said.logits.double() + self.correction[..., 1] - self.correction[..., 0])
        return CategoricalObservation(said.log_levels().double() + self.correction)

    def _outputs(self, z: Tensor, level: Tensor, label: Tensor | None) -> Tensor:
        """What the network says, (n, *event_shape, parameters)."""
        gamma = self.chain.gamma
        dtype = next(self.network.parameters(), gamma).dtype
        t = (gamma[level] - gamma[0]) / (gamma[-1] - gamma[0])
        told = [z.to(dtype), t.to(dtype)]
        if (null := self.null_label) is not None:
            told.append(torch.full_like(level, null) if label is None else label)
        outputs: Tensor = self.network(*told)
        return outputs.reshape(len(z), *self.event_shape, self.likelihood.parameters)

    def _observe(self, outputs: Tensor) -> Observation:
        # Columns of a table may lie far from zero: float32 would round their spread away.
        units = torch.float64 if self.likelihood.measure == "density" else outputs.dtype
        return self.likelihood.observe(outputs, self.shift.to(units), self.scale.to(units))


def _log_frequencies(x: Tensor, levels: int) -> Tensor:
    """log of each level's frequency in rows x (n, *event_shape), one count added to each; of bits, x may be P(1)."""
    if levels == 2:
        ones = x.double().sum(0)
        counts = torch.stack([len(x) - ones, ones], -1)
    else:
        first = levels * torch.arange(x[0].numel(), device=x.device)
        counts = torch.zeros(levels * len(first), dtype=torch.float64, device=x.device)
        for rows in x.split(_COUNTED_ROWS):
            counts += torch.bincount((rows.flatten(1).long() + first).flatten(), minlength=len(counts))
        counts = counts.reshape(*x.shape[1:], levels)
    return torch.log((counts + 1) / (len(x) + levels))
