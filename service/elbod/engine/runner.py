"""The mechanism: runs one padded tile through a generator. Decides nothing.

A tile's outputs are a dictionary of arrays whose first axis is the tile. Networks run in the weights' own precision;
every log-density and its sum over event dimensions is float64.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbod.engine.jobs import Array
from elbod.errors import StartupError
from elbod.generators.base import Generator, LatentTerms
from elbod.generators.device import choose_device
from elbod.generators.likelihoods import Observation
from elbod.generators.noise import Keys, Stream, normals, uniforms
from elbod.generators.posteriors import ClosedFormPosterior, Posterior
from elbod.generators.priors import ClosedFormPrior

Outputs = dict[str, Array]

# Posterior parameters travel between the stages under this prefix.
PARAMETER = "q."


class Source(IntEnum):
    """Where a unit's z comes from; the pilot draws from the posterior, too, with noise of its own."""

    GIVEN = 0
    PRIOR = 1
    POSTERIOR = 2
    PILOT = 3


_STREAMS = {Source.PRIOR: Stream.PRIOR, Source.POSTERIOR: Stream.POSTERIOR, Source.PILOT: Stream.PILOT}


@dataclass(slots=True)
class DrawInputs:
    """(row, draw) units of a tile; what no unit fills stays zero, and padding is a given z = 0."""

    source: NDArray[np.uint8]
    seed: NDArray[np.uint64]
    index: NDArray[np.uint64]
    draw: NDArray[np.uint64]
    temperature: NDArray[np.float32]
    z: NDArray[np.float32]
    x: Array
    label: NDArray[np.int64]
    sampled: NDArray[np.bool_]
    parameters: dict[str, Array] = field(default_factory=dict)
    wants: set[str] = field(default_factory=set)
    # Noise that was drawn ahead, and where.
    noise: list[tuple[Source, slice, NDArray[np.float32]]] = field(default_factory=list)

    @classmethod
    def zeros(cls, generator: Generator, size: int) -> "DrawInputs":
        return cls(
            source=np.zeros(size, np.uint8),
            seed=np.zeros(size, np.uint64),
            index=np.zeros(size, np.uint64),
            draw=np.zeros(size, np.uint64),
            temperature=np.zeros(size, np.float32),
            z=np.zeros((size, generator.latent_dim), np.float32),
            x=np.zeros((size, *generator.event_shape), row_dtype(generator)),
            label=np.zeros(size, np.int64),
            sampled=np.zeros(size, np.bool_),
        )

    def keys(self, units: NDArray[np.bool_]) -> Keys:
        return Keys(self.seed[units], self.index[units], self.draw[units])


@dataclass(frozen=True, slots=True)
class _Drawn:
    """z, and as far as it is wanted what scores it and what it decodes to."""

    z: Tensor
    terms: LatentTerms | None
    observation: Observation | None


def latent_noise(generator: Generator, source: Source, keys: Keys) -> NDArray[np.float32]:
    """The normals that become z, (n, dimensions): the same alone and for many keys at once."""
    dimensions = generator.prior().noise_dimensions if source is Source.PRIOR else generator.latent_dim
    return normals(keys, _STREAMS[source], dimensions).astype(np.float32)


def row_dtype(generator: Generator) -> type[np.floating[Any]]:
    """The dtype that a tile's rows have on their way in: it holds every request dtype's values."""
    return np.float32 if generator.likelihood.measure == "pmf" else np.float64


def pin_thread() -> None:
    """One intra-op thread for the calling thread; whatever runs a model calls it first, since matrix products of a
    thread that never asked are split over all cores, whatever the process was told, and bytes depend on the split.
    """
    torch.set_num_threads(1)


class Runner:
    """Runs tiles on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @classmethod
    def reproducible(cls, name: str) -> Self:
        """A runner on the device of that name with what changes bytes fixed for the process: neither TF32 nor
        autotuning, and one intra-op thread, also for what models compute once at load.

        Raises StartupError.
        """
        try:
            device = choose_device(name)
        except ValueError as error:
            raise StartupError(str(error)) from error
        pin_thread()
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        return cls(device)

    def encode(self, generator: Generator, x: Array, label: NDArray[np.int64]) -> Outputs:
        """q(z|x) of a tile of rows, with its closed-form terms against the prior where there are any, nats.

        Labels (tile,) are read by conditional models only.
        """
        with torch.inference_mode():
            rows = self._tensor(x)
            posterior = generator.encode(rows, self._label(generator, label))
            exact, prior = posterior.double(), generator.prior()
            outputs = {PARAMETER + name: value for name, value in posterior.parameters.items()}
            if isinstance(prior, ClosedFormPrior) and isinstance(exact, ClosedFormPosterior):
                per_dimension = prior.kl_per_dimension(exact)
                outputs["kl"] = prior.kl(exact) if per_dimension is None else per_dimension.sum(-1)
                outputs["log_prior"] = prior.expected_log_prob(exact)
                outputs["entropy"] = exact.entropy()
                if per_dimension is not None:
                    outputs["kl_per_dimension"] = per_dimension
            if (evidence := generator.log_evidence(rows)) is not None:
                outputs["log_evidence"] = evidence
            if (elements := generator.expected_log_likelihood(rows, posterior)) is not None:
                outputs |= {"expected_reconstruction": elements.flatten(1).sum(-1), "expected_map": elements}
            return {name: _array(value) for name, value in outputs.items()}

    def draw(self, generator: Generator, inputs: DrawInputs) -> Outputs:
        """z of a tile of units and, as far as `inputs.wants`, what follows from it:

        weights: log p(z) and log q(z|x), and the terms of a hierarchy given its drawn groups; score: log p(x|z);
        map: the same per element; sample: x ~ p(x|z), and whether p(x|z) is undefined; mean: E[x|z].
        """
        with torch.inference_mode():
            drawn = self._scored(generator, inputs) or self._mixed(generator, inputs)
            outputs = {"z": drawn.z}
            if drawn.terms is not None and "weights" in inputs.wants:
                outputs |= {"log_prior_z": drawn.terms.log_prior, "log_q_z": drawn.terms.log_q}
                if (given := drawn.terms.conditional) is not None:
                    outputs |= {"kl_z": given.kl, "expected_log_prior_z": given.log_prior, "entropy_z": given.entropy}
            if drawn.observation is not None:
                observation = drawn.observation.double()
                if inputs.wants & {"score", "map"}:
                    elements = observation.log_prob(self._tensor(inputs.x))
                    outputs["reconstruction"] = elements.flatten(1).sum(-1)
                    if "map" in inputs.wants:
                        outputs["reconstruction_map"] = elements
                if "sample" in inputs.wants:
                    outputs["undefined"] = drawn.observation.undefined(len(inputs.source))
                    u = self._uniforms(generator, inputs)
                    outputs["sample"] = observation.icdf(u).to(generator.likelihood.dtype)
                if "mean" in inputs.wants:
                    outputs["mean"] = observation.mean().float()
            return {name: _array(value) for name, value in outputs.items()}

    def _scored(self, generator: Generator, inputs: DrawInputs) -> "_Drawn | None":
        """A tile of scored draws from q(z|x), as most tiles of /elbo are, in the one pass that its family has for it;
        None for any other tile. The self-test proves it equal to `_mixed`.
        """
        kinds = set(np.unique(inputs.source).tolist()) - {Source.GIVEN}
        if not {"weights", "score"} <= inputs.wants or inputs.wants & {"sample", "mean"} or len(kinds) != 1:
            return None
        (source,) = (Source(kind) for kind in kinds)
        if source is Source.PRIOR:
            return None
        units = inputs.source == source
        noise = self._tensor(self._noise(generator, inputs, source, units))
        label = self._label(generator, inputs.label)
        drawn = generator.draw(self._posterior(generator, inputs), noise, label)
        return _Drawn(drawn.z, drawn.terms, drawn.observation)

    def _mixed(self, generator: Generator, inputs: DrawInputs) -> "_Drawn":
        """A tile of draws of any source and want, step by step."""
        z, posterior = self._latents(generator, inputs)
        terms = observation = None
        if posterior is not None and "weights" in inputs.wants:
            terms = generator.latent_terms(posterior, z)
        if inputs.wants & {"score", "map", "sample", "mean"}:
            observation = generator.decode(z, self._label(generator, inputs.label))
        return _Drawn(z, terms, observation)

    def _posterior(self, generator: Generator, inputs: DrawInputs) -> Posterior:
        return generator.posterior({name: self._tensor(value) for name, value in inputs.parameters.items()})

    def _latents(self, generator: Generator, inputs: DrawInputs) -> tuple[Tensor, Posterior | None]:
        """z in float32, which is what callers see: densities are evaluated at the very value that is returned."""
        z = self._tensor(inputs.z)
        temperature = self._tensor(inputs.temperature)[:, None]
        posterior = None
        for source in _STREAMS:
            units = inputs.source == source
            if not units.any():
                continue
            prior = generator.prior()
            noise = self._noise(generator, inputs, source, units)
            if source is Source.PRIOR:
                drawn = prior.draw(self._tensor(noise), temperature)
            else:
                posterior = self._posterior(generator, inputs)
                drawn = posterior.draw(self._tensor(noise), temperature)
            z = torch.where(self._tensor(units)[:, None], drawn.float(), z)
        return z, posterior

    @staticmethod
    def _noise(
        generator: Generator, inputs: DrawInputs, source: Source, units: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Noise of a tile's units of one source; zeros elsewhere."""
        ahead = [(at, values) for kind, at, values in inputs.noise if kind is source]
        missing = units.copy()
        for at, _ in ahead:
            missing[at] = False
        drawn = latent_noise(generator, source, inputs.keys(missing))
        noise = np.zeros((len(units), drawn.shape[1]), np.float32)
        noise[missing] = drawn
        for at, values in ahead:
            noise[at] = values
        return noise

    def _uniforms(self, generator: Generator, inputs: DrawInputs) -> Tensor:
        u = np.full((len(inputs.sampled), generator.likelihood.event_dims), 0.5)
        u[inputs.sampled] = uniforms(inputs.keys(inputs.sampled), Stream.OBSERVATION, u.shape[1])
        return self._tensor(u.reshape(-1, *generator.event_shape))

    def _label(self, generator: Generator, label: NDArray[np.int64]) -> Tensor | None:
        return self._tensor(label) if generator.conditional else None

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array
