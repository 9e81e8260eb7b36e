"""The programs of the engine: pure tensor functions on one tile of one model.

A program encodes rows, or makes a draw of each unit and ends it as terms of the bound, as latents, or as data. Row i
of an output depends on row i of the inputs alone. Networks run in the weights' own precision; every log-density and its
sum over event dimensions is float64. The self-test proves programs, backends run them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbod.generators.base import Generator, Walk
from elbod.generators.evaluation import row_terms
from elbod.generators.terms import DrawTerms, PathTerms, RowTerms


class Source(Enum):
    """Where a draw begins."""

    GIVEN = auto()
    PRIOR = auto()
    POSTERIOR = auto()


class End(Enum):
    """What a draw ends as: terms of the bound, log p(x|z) by element, latents with their terms, data or its mean."""

    TERMS = auto()
    MAP = auto()
    LATENTS = auto()
    SAMPLE = auto()
    MEAN = auto()


@dataclass(frozen=True, eq=False)
class Program:
    """One of the constants below. `source` is None for the program that encodes rows."""

    name: str
    source: Source | None = None
    ends: frozenset[End] = frozenset()

    def __str__(self) -> str:
        return self.name


ENCODE = Program("encode")
SCORE = Program("score", Source.POSTERIOR, frozenset({End.TERMS}))
SCORE_MAP = Program("score_map", Source.POSTERIOR, frozenset({End.TERMS, End.MAP}))
DRAW = Program("draw", Source.POSTERIOR, frozenset({End.LATENTS}))
DATA = {
    (source, end): Program(f"{source.name}_{end.name}".lower(), source, frozenset({end}))
    for source in Source
    for end in (End.SAMPLE, End.MEAN)
}

# What the self-test runs: between them every computation of every program, each network once.
_ALL = frozenset({End.SAMPLE, End.MEAN})
PROOFS = (
    Program("proof_posterior", Source.POSTERIOR, _ALL | {End.TERMS, End.MAP, End.LATENTS}),
    Program("proof_prior", Source.PRIOR, _ALL),
    Program("proof_given", Source.GIVEN, _ALL),
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A tile's inputs, each with one entry a row; a program reads those that it needs.

    x (n, *event_shape); label (n,) int64 for conditional models; parameters of q(z|x); noise (n, noise_dimensions)
    standard normals; temperature (n, 1); z (n, latent_dim); u (n, *event_shape) uniforms.
    """

    x: Tensor | None = None
    label: Tensor | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    noise: Tensor | None = None
    temperature: Tensor | float = 1.0
    z: Tensor | None = None
    u: Tensor | None = None


@dataclass(frozen=True)
class Encoded:
    """q(z|x) of rows, and what they contribute to the bound without a draw."""

    parameters: dict[str, Tensor]
    terms: RowTerms[Tensor]


@dataclass(frozen=True)
class Drawn:
    """What a program makes of its draws; None what it does not end as. `undefined` are rows whose q(z|x) or p(x|z) has
    a parameter that is not a number: a draw of integers would not show it."""

    terms: DrawTerms[Tensor] | None = None
    elements: Tensor | None = None
    z: Tensor | None = None
    path: PathTerms[Tensor] | None = None
    sample: Tensor | None = None
    mean: Tensor | None = None
    undefined: Tensor | None = None


def row_dtype(generator: Generator) -> type[np.floating[Any]]:
    """The dtype that rows have on their way in: it holds every request dtype's values."""
    return np.float32 if generator.likelihood.measure == "pmf" else np.float64


def encode(generator: Generator, inputs: Inputs) -> Encoded:
    """The program `ENCODE`."""
    assert inputs.x is not None
    q = generator.encode(inputs.x, inputs.label)
    return Encoded(q.parameters, row_terms(generator, inputs.x, q))


def draw(generator: Generator, program: Program, inputs: Inputs) -> Drawn:
    """Every other program."""
    walk, path = _begin(generator, program, inputs)
    ends = program.ends
    latents = None if ends <= {End.TERMS, End.MAP} else walk.z
    if ends == {End.LATENTS}:
        return Drawn(z=latents, path=path)
    observation = generator.observe(walk, inputs.label)
    exact = observation.double()
    terms = elements = sample = mean = undefined = None
    if End.TERMS in ends:
        assert inputs.x is not None
        assert path is not None
        terms = DrawTerms(exact.log_likelihood(inputs.x), path)
    if End.MAP in ends:
        assert inputs.x is not None
        elements = exact.log_prob(inputs.x)
    if End.SAMPLE in ends:
        assert inputs.u is not None
        sample = exact.icdf(inputs.u).to(generator.likelihood.dtype)
        undefined = observation.undefined(len(walk.z))
    if End.MEAN in ends:
        mean = exact.mean().float()
        undefined = torch.zeros(len(mean), dtype=torch.bool, device=mean.device) if undefined is None else undefined
    if undefined is not None:
        for parameter in inputs.parameters.values():
            undefined = undefined | ~parameter.isfinite().flatten(1).all(1)
    return Drawn(terms, elements, latents, path if End.LATENTS in ends else None, sample, mean, undefined)


def _begin(generator: Generator, program: Program, inputs: Inputs) -> tuple[Walk, PathTerms[Tensor] | None]:
    if program.source is Source.GIVEN:
        assert inputs.z is not None
        return Walk(inputs.z), None
    assert inputs.noise is not None
    q = generator.posterior(inputs.parameters) if program.source is Source.POSTERIOR else None
    return generator.begin(q, inputs.noise, inputs.temperature)
