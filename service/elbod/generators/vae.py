"""`vae`: the variational auto-encoder of Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.

p(z) = N(0, I) or a VampPrior,   q(z|x) = N(mean(x), diag(stddev(x)^2))
p(x|z) = product over i of a likelihood with parameters network(z)_i
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, final

import torch
from torch import Tensor, nn

from elbod.generators.base import Blueprint, Generator
from elbod.generators.convolutional import ConvolutionalDecoder, ConvolutionalEncoder, widened
from elbod.generators.likelihoods import Observation
from elbod.generators.networks import Activation, mlp
from elbod.generators.posteriors import DiagonalNormal
from elbod.generators.priors import NormalMixture, Prior, StandardNormal

# exp(-7) ... exp(3): q neither collapses to a point nor leaves float32's comfortable range.
_MIN_LOG_STDDEV, _MAX_LOG_STDDEV = -7.0, 3.0


@dataclass(frozen=True, kw_only=True)
class VAESpec:
    """Sizes of the networks; the decoder mirrors the encoder.

    `mlp` networks have `hidden` layers, `activation` and `dropout`, which acts while training only; `conv` ones, over
    images, `channels` a stage of half the height and width of the one before and `blocks` residual blocks a stage.
    The `vamp` prior is the mixture of q(z|u) over `pseudo_inputs` learned u.
    """

    latent_dim: int
    network: Literal["mlp", "conv"] = "mlp"
    hidden: tuple[int, ...] = (300, 300)
    activation: Activation = "silu"
    dropout: float = 0.0
    channels: tuple[int, ...] = (48, 96)
    blocks: int = 2
    prior: Literal["normal", "vamp"] = "normal"
    pseudo_inputs: int = 500

    def __post_init__(self) -> None:
        if min(self.latent_dim, self.blocks, *self.hidden, *self.channels) < 1:
            raise ValueError(
                f"sizes must be positive: latent_dim={self.latent_dim}, hidden={self.hidden}, "
                f"channels={self.channels}, blocks={self.blocks}"
            )
        if self.pseudo_inputs < 1:
            raise ValueError(f"pseudo_inputs must be positive, got {self.pseudo_inputs}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")


@final
class VAE(Generator):
    family = "vae"
    Spec = VAESpec

    shift: Tensor
    scale: Tensor

    def __init__(self, blueprint: Blueprint, spec: VAESpec) -> None:
        super().__init__(blueprint, spec.latent_dim)
        d, event_dims = spec.latent_dim, self.likelihood.event_dims
        outputs = self.likelihood.parameters
        self.encoder: nn.Module
        self.decoder: nn.Module
        if spec.network == "conv":
            self.encoder = ConvolutionalEncoder(self.event_shape, spec.channels, spec.blocks, 2 * d)
            self.decoder = ConvolutionalDecoder(d, self.event_shape, spec.channels, spec.blocks, outputs)
        else:
            self.encoder = mlp(event_dims, spec.hidden, 2 * d, spec.activation, spec.dropout)
            hidden = tuple(reversed(spec.hidden))
            self.decoder = mlp(d, hidden, event_dims * outputs, spec.activation, spec.dropout)
        # Columns of a table may lie far from zero (time stamps): float32 would round their spread away.
        dtype = torch.float64 if self.likelihood.measure == "density" else torch.float32
        self.register_buffer("shift", torch.zeros(self.event_shape, dtype=dtype))
        self.register_buffer("scale", torch.ones(self.event_shape, dtype=dtype))
        self._components: NormalMixture | None = None
        if spec.prior == "vamp":
            self.kl_estimator = "monte_carlo"
            self.pseudo_inputs = nn.Parameter(torch.zeros(spec.pseudo_inputs, event_dims))

    @classmethod
    def build(cls, blueprint: Blueprint, spec: VAESpec) -> Self:
        return cls(blueprint, spec)

    def initialize(self, x: Tensor) -> None:
        shift, scale = self.likelihood.standardization(x)
        self.shift, self.scale = shift.to(self.shift.dtype), scale.to(self.scale.dtype)
        if self.kl_estimator == "monte_carlo":
            # Pseudo-inputs begin as training rows, spread evenly over them.
            rows = torch.linspace(0, len(x) - 1, len(self.pseudo_inputs)).round().long()
            with torch.no_grad():
                self.pseudo_inputs.copy_(self._standardized(x[rows]))

    def prepare(self) -> None:
        if self.kl_estimator == "monte_carlo":
            with torch.no_grad():
                self._components = self._vamp_prior()

    def train(self, mode: bool = True) -> Self:
        self._components = None
        return super().train(mode)

    def encode(self, x: Tensor, label: Tensor | None = None) -> DiagonalNormal:
        return self._encode(self._standardized(x))

    def _standardized(self, x: Tensor) -> Tensor:
        return ((x.to(self.shift.dtype) - self.shift) / self.scale).flatten(1).to(self._network_dtype)

    @property
    def _network_dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype

    def _encode(self, standardized: Tensor) -> DiagonalNormal:
        mean, log_stddev = widened(self.encoder(standardized)).chunk(2, dim=-1)
        return DiagonalNormal(mean, log_stddev.clamp(_MIN_LOG_STDDEV, _MAX_LOG_STDDEV).exp())

    def posterior(self, parameters: Mapping[str, Tensor]) -> DiagonalNormal:
        return DiagonalNormal(parameters["mean"], parameters["stddev"])

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        outputs = widened(self.decoder(z.to(self._network_dtype)))
        outputs = outputs.reshape(len(z), *self.event_shape, self.likelihood.parameters)
        return self.likelihood.observe(outputs, self.shift, self.scale)

    def prior(self) -> Prior:
        if self.kl_estimator == "closed_form":
            return StandardNormal(self.latent_dim)
        return self._components or self._vamp_prior()

    def _vamp_prior(self) -> NormalMixture:
        q = self._encode(self.pseudo_inputs)
        return NormalMixture(q.mean, q.stddev)
