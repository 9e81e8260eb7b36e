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
from elbod.generators.chained import Chained
from elbod.generators.evaluation import row_terms
from elbod.generators.posteriors import Posterior
from elbod.generators.terms import DrawTerms, PathTerms, RowTerms, summed


class Source(Enum):
    """Where a draw begins: at a given z, at one of p(z) or of q(z|x), or at one of the q(z|x) of rows that the program
    encodes itself."""

    GIVEN = auto()
    PRIOR = auto()
    POSTERIOR = auto()
    ROWS = auto()


class End(Enum):
    """What a draw ends as: terms of the bound, or these by element, latents with their terms, data or its mean; as a
    draw that is on its way, or as the terms of the level where it stands."""

    WALK = auto()
    LEVEL = auto()
    TERMS = auto()
    MAP = auto()
    LATENTS = auto()
    SAMPLE = auto()
    MEAN = auto()


class Move(Enum):
    """What a pass makes of a draw of a family with levels: the next level by p, or by q with the terms of both; the
    next level by q alone; that of the deterministic sampler; or any level by q without the path to it."""

    ADVANCE = auto()
    DESCEND = auto()
    FOLLOW = auto()
    VISIT = auto()


@dataclass(frozen=True, eq=False)
class Program:
    """One of the constants below. `source` is None for the program that encodes rows; without a `move` a program begins
    draws. `guided` moves run the network under the null label, too."""

    name: str
    source: Source | None = None
    ends: frozenset[End] = frozenset()
    move: Move | None = None
    guided: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def reads_x(self) -> bool:
        return End.WALK not in self.ends and not self.ends.isdisjoint({End.TERMS, End.MAP})

    @property
    def reads_z(self) -> bool:
        return self.source is Source.GIVEN or self.move not in (None, Move.VISIT)

    @property
    def reads_noise(self) -> bool:
        return self.source is not Source.GIVEN and self.move is not Move.FOLLOW

    @property
    def reads_temperature(self) -> bool:
        return self.reads_noise and not self.ends.isdisjoint({End.SAMPLE, End.MEAN})

    @property
    def reads_u(self) -> bool:
        return End.SAMPLE in self.ends

    @property
    def evaluations(self) -> int:
        """How often it runs the network that turns latents into p(x|z) or into the level below: what a draw costs."""
        handed_out = self.source is Source.GIVEN and self.ends == {End.LATENTS}
        runs = self.move in (Move.ADVANCE, Move.FOLLOW) or not (End.WALK in self.ends or handed_out)
        return runs + self.guided


ENCODE = Program("encode")
SCORE = Program("score", Source.POSTERIOR, frozenset({End.TERMS}))
# One draw of each row, which need not be encoded before: a tile less, with the bytes of both.
SCORE_ROWS = Program("score_rows", Source.ROWS, frozenset({End.TERMS}))
SCORE_MAP = Program("score_map", Source.POSTERIOR, frozenset({End.TERMS, End.MAP}))
DRAW = Program("draw", Source.POSTERIOR, frozenset({End.LATENTS}))
# Draws of families with levels, which end as those from a given z do.
_ON_ITS_WAY = frozenset({End.WALK})
_BY_P_OR_Q = (Source.PRIOR, Source.POSTERIOR)
BEGIN = {source: Program(f"begin_{source.name}".lower(), source, _ON_ITS_WAY) for source in _BY_P_OR_Q}
BEGIN_MAP = Program("begin_map", Source.POSTERIOR, _ON_ITS_WAY | {End.MAP})
ADVANCE = {
    source: Program(f"advance_{source.name}".lower(), source, _ON_ITS_WAY, Move.ADVANCE) for source in _BY_P_OR_Q
}
ADVANCE_MAP = Program("advance_map", Source.POSTERIOR, _ON_ITS_WAY | {End.MAP}, Move.ADVANCE)
DESCEND = Program("descend", Source.POSTERIOR, _ON_ITS_WAY, Move.DESCEND)
FOLLOW = Program("follow", Source.PRIOR, _ON_ITS_WAY, Move.FOLLOW)
GUIDED = {
    move: Program(f"{move.name}_guided".lower(), Source.PRIOR, _ON_ITS_WAY, move, guided=True)
    for move in (Move.ADVANCE, Move.FOLLOW)
}
VISIT = Program("visit", Source.POSTERIOR, frozenset({End.LEVEL}), Move.VISIT)
VISIT_BOTTOM = Program("visit_bottom", Source.POSTERIOR, _ON_ITS_WAY, Move.VISIT)
LATENTS = Program("latents", Source.GIVEN, frozenset({End.LATENTS}))
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
_PROOFS_OF_PASSES = (
    BEGIN[Source.PRIOR],
    BEGIN_MAP,
    ADVANCE[Source.PRIOR],
    ADVANCE_MAP,
    DESCEND,
    FOLLOW,
    VISIT,
    Program("proof_observed", Source.GIVEN, _DATA | _SCORED),
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A tile's inputs, each with one entry a row; a program reads those that it needs.

    x (n, *event_shape); label (n,) int64 for conditional models; parameters of q(z|x); noise (n, noise_dimensions)
    standard normals; temperature (n, 1); z (n, latent_dim); u (n, *event_shape) uniforms; level and below (n,) int64,
    where draws stand and what the pass makes; guidance (n, 1) float64.
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
    guidance: Tensor | None = None


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
    level_kl: Tensor | None = None
    elements: Tensor | None = None
    z: Tensor | None = None
    path: PathTerms[Tensor] | None = None
    sample: Tensor | None = None
    mean: Tensor | None = None
    undefined: Tensor | None = None


def proofs(generator: Generator) -> tuple[Program, ...]:
    """What shows that no row's bytes depend on its tile, whatever the generator is asked."""
    if not generator.levels:
        return _PROOFS
    return _PROOFS_OF_PASSES if generator.null_label is None else (*_PROOFS_OF_PASSES, *GUIDED.values())


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
    if program.move is not None:
        return _moved(generator, program, inputs)
    if End.WALK in program.ends:
        return _begun(generator, program, inputs)
    walk, path = _begin(generator, program, inputs)
    ends = program.ends
    latents = None if ends <= {End.TERMS, End.MAP} else walk.z
    if ends == {End.LATENTS}:
        return Drawn(z=walk.z, path=path)
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


def _begun(generator: Generator, program: Program, inputs: Inputs) -> Drawn:
    if End.MAP not in program.ends:
        return _on_its_way(*_begin(generator, program, inputs))
    assert isinstance(generator, Chained)
    assert inputs.noise is not None
    walk, elements = generator.begin_by_element(generator.posterior(inputs.parameters), inputs.noise)
    return _on_its_way(walk, summed(elements), elements)


def _moved(generator: Generator, program: Program, inputs: Inputs) -> Drawn:
    """One pass of a family with levels."""
    assert isinstance(generator, Chained)
    q = generator.posterior(inputs.parameters) if program.source is Source.POSTERIOR else None
    if program.move is Move.VISIT:
        return _visited(generator, program, q, inputs)
    assert inputs.z is not None
    walk, label = Walk(inputs.z, inputs.level, inputs.below), inputs.label
    if program.move is Move.FOLLOW:
        return _on_its_way(generator.follow(walk, label, inputs.guidance))
    assert inputs.noise is not None
    if program.move is Move.DESCEND:
        assert q is not None
        return _on_its_way(generator.descend(walk, q, inputs.noise))
    if End.MAP not in program.ends:
        return _on_its_way(*generator.advance(walk, q, inputs.noise, label, inputs.guidance))
    assert q is not None
    after, elements = generator.advance_by_element(walk, q, inputs.noise, label)
    return _on_its_way(after, summed(elements), elements)


def _visited(generator: Chained, program: Program, q: Posterior | None, inputs: Inputs) -> Drawn:
    assert q is not None
    assert inputs.level is not None
    assert inputs.noise is not None
    walk = generator.visit(q, inputs.level, inputs.noise)
    if End.WALK in program.ends:
        return _on_its_way(walk)
    terms = generator.level_terms(replace(walk, below=inputs.below), q, inputs.label)
    return Drawn(level_kl=terms.kl, undefined=_undefined(walk))


def _on_its_way(
    walk: Walk, path: PathTerms[Tensor] | None = None, by_element: PathTerms[Tensor] | None = None
) -> Drawn:
    """The draws after a pass, what it contributes, and each element's share of that."""
    elements = None if by_element is None else -by_element.sampled.kl
    return Drawn(z=walk.z, path=path, elements=elements, undefined=_undefined(walk))


def _undefined(walk: Walk) -> Tensor:
    return ~walk.z.isfinite().all(1)


def _begin(generator: Generator, program: Program, inputs: Inputs) -> tuple[Walk, PathTerms[Tensor] | None]:
    if program.source is Source.GIVEN:
        assert inputs.z is not None
        return Walk(inputs.z, inputs.level), None
    assert inputs.noise is not None
    q = generator.posterior(inputs.parameters) if program.source is Source.POSTERIOR else None
    return generator.begin(q, inputs.noise, inputs.temperature)
