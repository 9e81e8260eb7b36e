"""The programs of the engine: pure tensor functions on one tile of one model.

A program encodes rows, or makes a draw of each unit and ends it as terms of the bound, as latents, or as data. Draws
of a family with levels take passes: one program begins them, one takes them a level down, and the programs that end
what is drawn from a given z end them at level 0. Row i of an output depends on row i of the inputs alone. Networks run
in the weights' own precision; every log-density and its sum over event dimensions is float64. The self-test proves
programs, backends run them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbod.generators.base import Generator, Walk
from elbod.generators.evaluation import row_terms
from elbod.generators.terms import DrawTerms, PathTerms, RowTerms


class Source(Enum):
    """Where a draw begins: at a given z, at one of p(z) or of q(z|x), or at one of the q(z|x) of rows that the program
    encodes itself."""

    GIVEN = auto()
    PRIOR = auto()
    POSTERIOR = auto()
    ROWS = auto()


class End(Enum):
    """What a draw ends as: terms of the bound, log p(x|z) by element, latents with their terms, data or its mean; or as
    a draw that is on its way."""

    WALK = auto()
    TERMS = auto()
    MAP = auto()
    LATENTS = auto()
    SAMPLE = auto()
    MEAN = auto()


@dataclass(frozen=True, eq=False)
class Program:
    """One of the constants below. `source` is None for the program that encodes rows.

    A program that `advances` takes draws that are on their way one pass further, by p or by q as its source says.
    """

    name: str
    source: Source | None = None
    ends: frozenset[End] = frozenset()
    advances: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def reads_x(self) -> bool:
        return not self.ends.isdisjoint({End.TERMS, End.MAP})

    @property
    def reads_z(self) -> bool:
        return self.advances or self.source is Source.GIVEN

    @property
    def reads_noise(self) -> bool:
        return self.source is not Source.GIVEN

    @property
    def reads_temperature(self) -> bool:
        return self.reads_noise and not self.ends.isdisjoint({End.SAMPLE, End.MEAN})

    @property
    def reads_u(self) -> bool:
        return End.SAMPLE in self.ends

    @property
    def evaluates(self) -> bool:
        """Whether it runs the network that turns latents into p(x|z), or into the level below: what a draw costs."""
        return self.advances or End.WALK not in self.ends


ENCODE = Program("encode")
SCORE = Program("score", Source.POSTERIOR, frozenset({End.TERMS}))
# One draw of each row, which need not be encoded before: a tile less, with the bytes of both.
SCORE_ROWS = Program("score_rows", Source.ROWS, frozenset({End.TERMS}))
SCORE_MAP = Program("score_map", Source.POSTERIOR, frozenset({End.TERMS, End.MAP}))
DRAW = Program("draw", Source.POSTERIOR, frozenset({End.LATENTS}))
# Draws of families with levels, which end as those from a given z do.
_BY_P_OR_Q = (Source.PRIOR, Source.POSTERIOR)
BEGIN = {source: Program(f"begin_{source.name}".lower(), source, frozenset({End.WALK})) for source in _BY_P_OR_Q}
ADVANCE = {
    source: Program(f"advance_{source.name}".lower(), source, frozenset({End.WALK}), advances=True)
    for source in _BY_P_OR_Q
}
OBSERVE = Program("observe", Source.GIVEN, frozenset({End.TERMS}))
OBSERVE_MAP = Program("observe_map", Source.GIVEN, frozenset({End.TERMS, End.MAP}))
DATA = {
    (source, end): Program(f"{source.name}_{end.name}".lower(), source, frozenset({end}))
    for source in (Source.GIVEN, Source.PRIOR, Source.POSTERIOR)
    for end in (End.SAMPLE, End.MEAN)
}

# What the self-test runs: between them every computation of every program, each network once.
_DATA = frozenset({End.SAMPLE, End.MEAN})
_SCORED = frozenset({End.TERMS, End.MAP})
_PROOFS = (
    Program("proof_posterior", Source.POSTERIOR, _DATA | _SCORED | {End.LATENTS}),
    Program("proof_prior", Source.PRIOR, _DATA),
    Program("proof_given", Source.GIVEN, _DATA),
)
# One pass at any level, not the chain: if every pass has equal bytes, so have all of them.
_PROOFS_OF_PASSES = (*BEGIN.values(), *ADVANCE.values(), Program("proof_observed", Source.GIVEN, _DATA | _SCORED))


@dataclass(frozen=True, slots=True)
class Inputs:
    """A tile's inputs, each with one entry a row; a program reads those that it needs.

    x (n, *event_shape); label (n,) int64 for conditional models; parameters of q(z|x); noise (n, noise_dimensions)
    standard normals; temperature (n, 1); z (n, latent_dim); u (n, *event_shape) uniforms; level and below (n,) int64,
    where draws stand and what the pass makes.
    """

    x: Tensor | None = None
    label: Tensor | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    noise: Tensor | None = None
    temperature: Tensor | float = 1.0
    z: Tensor | None = None
    u: Tensor | None = None
    level: Tensor | None = None
    below: Tensor | None = None


@dataclass(frozen=True)
class Encoded:
    """q(z|x) of rows, and what they contribute to the bound without a draw."""

    parameters: dict[str, Tensor]
    terms: RowTerms[Tensor]


@dataclass(frozen=True)
class Drawn:
    """What a program makes of its draws, and of rows that it encoded; None what it does not end as.

    `undefined` are rows whose q(z|x) or p(x|z) has a parameter that is not a number, which a draw of integers would not
    show, or whose latents are none. The terms of a draw that took passes are its `reconstruction` and the path terms of
    all passes.
    """

    rows: RowTerms[Tensor] | None = None
    terms: DrawTerms[Tensor] | None = None
    reconstruction: Tensor | None = None
    elements: Tensor | None = None
    z: Tensor | None = None
    path: PathTerms[Tensor] | None = None
    sample: Tensor | None = None
    mean: Tensor | None = None
    undefined: Tensor | None = None


def proofs(generator: Generator) -> tuple[Program, ...]:
    """What shows that no row's bytes depend on its tile, whatever the generator is asked."""
    return _PROOFS_OF_PASSES if generator.levels else _PROOFS


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
    if program.source is Source.ROWS:
        encoded = encode(generator, inputs)
        scored = draw(generator, SCORE, replace(inputs, parameters=encoded.parameters))
        return replace(scored, rows=encoded.terms)
    walk, path = (_advance if program.advances else _begin)(generator, program, inputs)
    ends = program.ends
    if ends == {End.WALK}:
        return Drawn(z=walk.z, path=path, undefined=~walk.z.isfinite().all(1))
    latents = None if ends <= {End.TERMS, End.MAP} else walk.z
    if ends == {End.LATENTS}:
        return Drawn(z=latents, path=path)
    observation = generator.observe(walk, inputs.label)
    exact = observation.double()
    terms = reconstruction = elements = sample = mean = undefined = None
    if End.TERMS in ends:
        assert inputs.x is not None
        reconstruction = exact.log_likelihood(inputs.x)
        if path is not None:
            terms, reconstruction = DrawTerms(reconstruction, path), None
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
    kept = path if End.LATENTS in ends else None
    return Drawn(
        terms=terms,
        reconstruction=reconstruction,
        elements=elements,
        z=latents,
        path=kept,
        sample=sample,
        mean=mean,
        undefined=undefined,
    )


def _advance(generator: Generator, program: Program, inputs: Inputs) -> tuple[Walk, PathTerms[Tensor] | None]:
    assert inputs.z is not None
    assert inputs.noise is not None
    q = generator.posterior(inputs.parameters) if program.source is Source.POSTERIOR else None
    return generator.advance(Walk(inputs.z, inputs.level, inputs.below), q, inputs.noise, inputs.label)


def _begin(generator: Generator, program: Program, inputs: Inputs) -> tuple[Walk, PathTerms[Tensor] | None]:
    if program.source is Source.GIVEN:
        assert inputs.z is not None
        return Walk(inputs.z), None
    assert inputs.noise is not None
    q = generator.posterior(inputs.parameters) if program.source is Source.POSTERIOR else None
    return generator.begin(q, inputs.noise, inputs.temperature)
