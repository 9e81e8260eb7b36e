"""`vae`: the variational auto-encoder of Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.

p(z) = N(0, I), a VampPrior or a flow,   q(z|x) = N(mean(x), diag(stddev(x)^2)) or a flow of it
p(x|z) = product over i of a likelihood with parameters network(z)_i
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, final

import torch
from torch import Tensor, nn

from elbod.generators.base import Blueprint, Generator
from elbod.generators.convolutional import ConvolutionalDecoder, ConvolutionalEncoder, widened
from elbod.generators.flows import (
    FlowPosterior,
    FlowPrior,
    Precisions,
    aligned_context,
    check_flow_sizes,
    coupling_flow,
)
from elbod.generators.likelihoods import Observation
from elbod.generators.networks import Activation, check_network_sizes, mlp
from elbod.generators.posteriors import DiagonalNormal, Posterior, positive_stddev
from elbod.generators.priors import NormalMixture, Prior, StandardNormal


@dataclass(frozen=True, kw_only=True)
class VAESpec:
    """Sizes of the networks; the decoder mirrors the encoder.

    `mlp` networks have `hidden` layers, `activation` and `dropout`, which acts while training only; `conv` ones, over
    images, `channels` a stage of half the height and width of the one before and `blocks` residual blocks a stage.
    The `vamp` prior is the mixture of q(z|u) over `pseudo_inputs` learned u. Flows have `flow_transforms` couplings,
    whose networks have `flow_hidden` layers.
    """

    latent_dim: int
    network: Literal["mlp", "conv"] = "mlp"
    hidden: tuple[int, ...] = (300, 300)
    activation: Activation = "silu"
    dropout: float = 0.0
    channels: tuple[int, ...] = (48, 96)
    blocks: int = 2
    prior: Literal["normal", "vamp", "flow"] = "normal"
    pseudo_inputs: int = 500
    posterior: Literal["normal", "flow"] = "normal"
    flow_transforms: int = 4
    flow_hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        check_network_sizes(self.latent_dim, self.hidden, self.channels, self.blocks, self.dropout)
        for key in ("pseudo_inputs", "flow_transforms"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be positive, got {getattr(self, key)}")
        if not self.flow_hidden or min(self.flow_hidden) < 1:
            raise ValueError(f"flow_hidden must be positive sizes, at least one, not {self.flow_hidden}")
        if "flow" in (self.prior, self.posterior) and self.latent_dim < 2:
            raise ValueError("a flow couples latent dimensions: latent_dim must be at least 2")
        if "flow" in (self.prior, self.posterior):
            check_flow_sizes(self.latent_dim, self.flow_transforms, self.flow_hidden)
        if (self.prior, self.posterior) == ("vamp", "flow"):
            raise ValueError(
                "the vamp prior is a mixture of normal posteriors: choose posterior=normal or another prior"
            )


@final
class VAE(Generator):
    family = "vae"
    Spec = VAESpec

    shift: Tensor
    scale: Tensor

    def __init__(self, blueprint: Blueprint, spec: VAESpec) -> None:
        super().__init__(blueprint, spec.latent_dim)
        d, event_dims = spec.latent_dim, self.likelihood.event_dims
        self._context = aligned_context(d, spec.flow_hidden[-1]) if spec.posterior == "flow" else 0
        outputs = self.likelihood.parameters
        encoded = 2 * d + self._context
        self.encoder: nn.Module
        self.decoder: nn.Module
        if spec.network == "conv":
            self.encoder = ConvolutionalEncoder(self.event_shape, spec.channels, spec.blocks, encoded)
            self.decoder = ConvolutionalDecoder(d, self.event_shape, spec.channels, spec.blocks, outputs)
        else:
            self.encoder = mlp(event_dims, spec.hidden, encoded, spec.activation, spec.dropout)
            hidden = tuple(reversed(spec.hidden))
            self.decoder = mlp(d, hidden, event_dims * outputs, spec.activation, spec.dropout)
        # Columns of a table may lie far from zero (time stamps): float32 would round their spread away.
        dtype = torch.float64 if self.likelihood.measure == "density" else torch.float32
        self.register_buffer("shift", torch.zeros(self.event_shape, dtype=dtype))
        self.register_buffer("scale", torch.ones(self.event_shape, dtype=dtype))
        if spec.prior != "normal" or spec.posterior != "normal":
            self.kl_estimator = "monte_carlo"
        self._components: NormalMixture | None = None
        if spec.prior == "vamp":
            self.pseudo_inputs = nn.Parameter(torch.zeros(spec.pseudo_inputs, event_dims))
        self._prior_flow = self._posterior_flow = None
        if spec.prior == "flow":
            self.prior_flow = coupling_flow(d, 0, spec.flow_transforms, spec.flow_hidden)
            self._prior_flow = Precisions(self.prior_flow)
        if spec.posterior == "flow":
            self.posterior_flow = coupling_flow(d, self._context, spec.flow_transforms, spec.flow_hidden)
            self._posterior_flow = Precisions(self.posterior_flow)

    @classmethod
    def build(cls, blueprint: Blueprint, spec: VAESpec) -> Self:
        return cls(blueprint, spec)

    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        shift, scale = self.likelihood.standardization(x)
        self.shift, self.scale = shift.to(self.shift.dtype), scale.to(self.scale.dtype)
        if self._has_pseudo_inputs:
            # Pseudo-inputs begin as training rows, spread evenly over them.
            rows = torch.linspace(0, len(x) - 1, len(self.pseudo_inputs)).round().long()
            with torch.no_grad():
                self.pseudo_inputs.copy_(self._standardized(x[rows]))

    def prepare(self) -> None:
        if self._has_pseudo_inputs:
            with torch.no_grad():
                self._components = self._vamp_prior()

    def kept_bytes(self) -> int:
        flows = [flow.kept_bytes() for flow in (self._prior_flow, self._posterior_flow) if flow is not None]
        pseudo_inputs = len(self.pseudo_inputs) if self._has_pseudo_inputs else 0
        return super().kept_bytes() + sum(flows) + 2 * 4 * pseudo_inputs * self.latent_dim

    def train(self, mode: bool = True) -> Self:
        self._components = None
        return super().train(mode)

    @property
    def _has_pseudo_inputs(self) -> bool:
        return hasattr(self, "pseudo_inputs")

    def encode(self, x: Tensor, label: Tensor | None = None) -> Posterior:
        return self.posterior(self._describe(self._standardized(x)))

    def _standardized(self, x: Tensor) -> Tensor:
        return ((x.to(self.shift.dtype) - self.shift) / self.scale).flatten(1).to(self._network_dtype)

    @property
    def _network_dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype

    def _describe(self, standardized: Tensor) -> dict[str, Tensor]:
        d = self.latent_dim
        mean, log_stddev, context = widened(self.encoder(standardized)).split([d, d, self._context], dim=-1)
        return {"mean": mean, "stddev": positive_stddev(log_stddev)} | (
            {"context": context} if self._posterior_flow else {}
        )

    def posterior(self, parameters: Mapping[str, Tensor]) -> Posterior:
        mean, stddev = parameters["mean"], parameters["stddev"]
        if self._posterior_flow is None:
            return DiagonalNormal(mean, stddev)
        return FlowPosterior(self._posterior_flow, mean, stddev, parameters["context"])

    def decode(self, z: Tensor, label: Tensor | None = None) -> Observation:
        outputs = widened(self.decoder(z.to(self._network_dtype)))
        outputs = outputs.reshape(len(z), *self.event_shape, self.likelihood.parameters)
        return self.likelihood.observe(outputs, self.shift, self.scale)

    def prior(self) -> Prior:
        if self._prior_flow is not None:
            return FlowPrior(self._prior_flow, self.latent_dim)
        if self._has_pseudo_inputs:
            return self._components or self._vamp_prior()
        return StandardNormal(self.latent_dim)

    def _vamp_prior(self) -> NormalMixture:
        q = self._describe(self.pseudo_inputs)
        # Halves of one tensor, which the mean would keep whole.
        return NormalMixture(q["mean"].contiguous(), q["stddev"])
