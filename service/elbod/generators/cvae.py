"""`cvae`: the conditional variational auto-encoder of Sohn, Lee and Yan, "Learning structured output representation
using deep conditional generative models", NeurIPS 2015, with the prior of Kingma et al., NeurIPS 2014 (their M2).

p(y) = the frequencies of the training labels,   p(z) = N(0, I),   q(z|x, y) = N(mean(x, y), diag(stddev(x, y)^2))
p(x|z, y) = product over i of a likelihood with parameters network(z, y)_i

Given a label it bounds log p(x|y); without one, log p(x) = logsumexp over y of log p(y) + log p(x|y).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbod.generators import labels
from elbod.generators.base import Blueprint, Generator
from elbod.generators.convolutional import ConvolutionalDecoder, ConvolutionalEncoder, widened
from elbod.generators.likelihoods import Observation
from elbod.generators.networks import Activation, check_network_sizes, mlp
from elbod.generators.posteriors import DiagonalNormal, positive_stddev
from elbod.generators.priors import StandardNormal


@dataclass(frozen=True, kw_only=True)
class CVAESpec:
    """Sizes of the networks, as of `vae`; the label is one more input of both."""

    latent_dim: int
    network: Literal["mlp", "conv"] = "mlp"
    hidden: tuple[int, ...] = (300, 300)
    activation: Activation = "silu"
    dropout: float = 0.0
    channels: tuple[int, ...] = (48, 96)
    blocks: int = 2

    def __post_init__(self) -> None:
        check_network_sizes(self.latent_dim, self.hidden, self.channels, self.blocks, self.dropout)


@final
class CVAE(Generator):
    family = "cvae"
    Spec = CVAESpec

    shift: Tensor
    scale: Tensor
    label_log_probs: Tensor

    def __init__(self, blueprint: Blueprint, spec: CVAESpec) -> None:
        super().__init__(blueprint, spec.latent_dim)
        self._labels = blueprint.labels or ()
        d, classes, event_dims = spec.latent_dim, len(self._labels), self.likelihood.event_dims
        outputs = self.likelihood.parameters
        self.encoder: nn.Module
        self.decoder: nn.Module
        if spec.network == "conv":
            self.encoder = ConvolutionalEncoder(self.event_shape, spec.channels, spec.blocks, 2 * d, planes=classes)
            self.decoder = ConvolutionalDecoder(d + classes, self.event_shape, spec.channels, spec.blocks, outputs)
        else:
            hidden = tuple(reversed(spec.hidden))
            self.encoder = mlp(event_dims + classes, spec.hidden, 2 * d, spec.activation, spec.dropout)
            self.decoder = mlp(d + classes, hidden, event_dims * outputs, spec.activation, spec.dropout)
        # As in `vae`: columns of a table may lie far from zero.
        dtype = torch.float64 if self.likelihood.measure == "density" else torch.float32
        self.register_buffer("shift", torch.zeros(self.event_shape, dtype=dtype))
        self.register_buffer("scale", torch.ones(self.event_shape, dtype=dtype))
        self.register_buffer("label_log_probs", labels.uniform(classes))

    @classmethod
    def build(cls, blueprint: Blueprint, spec: CVAESpec) -> Self:
        return cls(blueprint, spec)

    @classmethod
    def takes_labels(cls, spec: CVAESpec) -> bool:
        return True

    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        """Raises ValueError for a class without a training row."""
        shift, scale = self.likelihood.standardization(x)
        self.shift, self.scale = shift.to(self.shift.dtype), scale.to(self.scale.dtype)
        self.label_log_probs = labels.log_frequencies(label, self._labels)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Raises ValueError unless p(y) sums to 1."""
        found = super().load_state_dict(state_dict, strict, assign)
        labels.check_probabilities(self.label_log_probs)
        return found

    def label_log_prob(self) -> Tensor:
        return self.label_log_probs

    def encode(self, x: Tensor, label: Tensor | None = None) -> DiagonalNormal:
        standardized = ((x.to(self.shift.dtype) - self.shift) / self.scale).flatten(1).to(self._network_dtype)
        label = self._one_hot(label)
        if isinstance(self.encoder, ConvolutionalEncoder):
            outputs = self.encoder(standardized, label)
        else:
            outputs = self.encoder(torch.cat([standardized, label], dim=1))
        mean, log_stddev = widened(outputs).chunk(2, dim=-1)
        return DiagonalNormal(mean, positive_stddev(log_stddev))

    def posterior(self, parameters: Mapping[str, Tensor]) -> DiagonalNormal:
        return DiagonalNormal(parameters["mean"], parameters["stddev"])

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        inputs = torch.cat([z.to(self._network_dtype), self._one_hot(label)], dim=1)
        outputs = widened(self.decoder(inputs)).reshape(len(z), *self.event_shape, self.likelihood.parameters)
        return self.likelihood.observe(outputs, self.shift, self.scale)

    def prior(self) -> StandardNormal:
        return StandardNormal(self.latent_dim)

    def _one_hot(self, label: Tensor | None) -> Tensor:
        if label is None:
            raise ValueError("family 'cvae' needs a label for every row")
        return F.one_hot(label, len(self._labels)).to(self._network_dtype)

    @property
    def _network_dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype
