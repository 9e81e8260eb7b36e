"""What each draw of a job runs, pass after pass: pure policy over the job and the levels of its model.

A family without levels draws in one pass. With levels 0 ... T a draw begins at T, and each pass makes the next level of
its grid. Which passes a job takes does not depend on the numbers, so all draws of a chunk stand at the same pass.
"""

from enum import Enum, auto
from itertools import pairwise
from typing import NamedTuple

from elbod.engine.jobs import Job, Verb
from elbod.engine.programs import (
    ADVANCE,
    ADVANCE_MAP,
    BEGIN,
    BEGIN_MAP,
    DATA,
    DESCEND,
    DRAW,
    FOLLOW,
    GUIDED,
    LATENTS,
    OBSERVE,
    OBSERVE_MAP,
    SCORE,
    SCORE_MAP,
    SCORE_ROWS,
    VISIT,
    VISIT_BOTTOM,
    End,
    Move,
    Program,
    Source,
)
from elbod.generators.chain import grid


class Keep(Enum):
    """What becomes of a pass's outputs: terms that add up along a path, those of a level that a draw visits, latents or
    data that the answer shows, and what the draws end as."""

    PATH = auto()
    VISIT = auto()
    LATENTS = auto()
    SHOWN = auto()
    DRAWS = auto()


class Pass(NamedTuple):
    """What all draws of a chunk run next; they stand at `level`, and what is made of them at `below`.

    `number` counts the levels that draws visit, each its own, or the data that are shown.
    """

    program: Program
    level: int = 0
    below: int = 0
    keep: Keep = Keep.DRAWS
    number: int = 0


Passes = tuple[Pass, ...]


def passes(job: Job, levels: int, *, pilot: bool = False) -> Passes:
    """All passes of each draw, in order; of a pilot, whose draws end as terms of the bound."""
    if not levels:
        return (Pass(SCORE if pilot else _only(job)),)
    if job.verb is Verb.SAMPLE:
        return tuple(_sampled(job, levels))
    if job.verb is Verb.ENCODE:
        return (*_drawn_down_to(job.level, job, levels), Pass(LATENTS, job.level, job.level, Keep.LATENTS))
    last = Pass(OBSERVE_MAP if (job.reconstruction_map or job.bound_map) and not pilot else OBSERVE)
    if job.num_levels is not None:
        visits = (Pass(VISIT, keep=Keep.VISIT, number=number) for number in range(job.num_levels))
        return (
            Pass(BEGIN[Source.POSTERIOR], levels, levels, Keep.PATH),
            *visits,
            Pass(VISIT_BOTTOM, keep=Keep.PATH),
            last,
        )
    by_element = job.bound_map and not pilot
    begin, advance = (BEGIN_MAP, ADVANCE_MAP) if by_element else (BEGIN[Source.POSTERIOR], ADVANCE[Source.POSTERIOR])
    return (Pass(begin, levels, levels, Keep.PATH), *_steps(advance, _downward(job, levels)), last)


def evaluations(way: Passes) -> int:
    """What a draw costs: how often it runs the network. Draws that run none count as one."""
    return max(1, sum(step.program.evaluations for step in way))


def encodes(job: Job, levels: int) -> bool:
    """Whether rows are encoded before their draws."""
    return job.x is not None and (levels > 0 or _only(job) is not SCORE_ROWS)


def _only(job: Job) -> Program:
    if job.verb is Verb.ELBO:
        if job.reconstruction_map:
            return SCORE_MAP
        return SCORE if job.draws > 1 or job.target_standard_error is not None else SCORE_ROWS
    if job.verb is Verb.ENCODE:
        return DRAW
    source = Source.GIVEN if job.z is not None else Source.PRIOR if job.x is None else Source.POSTERIOR
    return DATA[source, _end(job)]


def _end(job: Job) -> End:
    return End.SAMPLE if job.output == "sample" else End.MEAN


def _downward(job: Job, levels: int) -> list[int]:
    """The levels of the job's grid, T first."""
    return list(grid(levels, job.num_steps or levels))[::-1]


def _steps(program: Program, downward: list[int]) -> list[Pass]:
    return [Pass(program, level, below, Keep.PATH) for level, below in pairwise(downward)]


def _drawn_down_to(level: int, job: Job, levels: int) -> list[Pass]:
    """z_level of the paths that a score with the same noise draws."""
    way = [place for place in _downward(job, levels) if place >= level]
    return [Pass(BEGIN[Source.POSTERIOR], levels, levels, Keep.PATH), *_steps(DESCEND, way)]


def _sampled(job: Job, levels: int) -> list[Pass]:
    """From p(z_T), q(z_level|x) or a given z_level down to x; with the mean, no further than z_level."""
    downward = _downward(job, levels)
    move = _move(job)
    from_top = [place for place in downward if place >= job.level]
    if job.z is not None:
        way = []
    elif job.x is not None:
        way = _drawn_down_to(job.level, job, levels)
    else:
        way = [Pass(BEGIN[Source.PRIOR], levels, levels, Keep.PATH), *_steps(move, from_top)]
    way.append(Pass(LATENTS, job.level, job.level, Keep.LATENTS))
    if job.output == "sample":
        way += _steps(move, [place for place in downward if place <= job.level])
    shown = _with_shown(way, job.trajectory)
    end = job.level if job.output == "mean" else 0
    return [*shown, Pass(DATA[Source.GIVEN, _end(job)], end, end)]


def _move(job: Job) -> Program:
    """How a sample goes a level down."""
    if job.guidance:
        return GUIDED[Move.ADVANCE if job.sampler == "ancestral" else Move.FOLLOW]
    return ADVANCE[Source.PRIOR] if job.sampler == "ancestral" else FOLLOW


def _with_shown(way: list[Pass], levels: tuple[int, ...]) -> list[Pass]:
    """The same passes with looks at E[x|z_level] wherever draws arrive at one of the levels."""
    found = list[Pass]()
    for step in way:
        found.append(step)
        arrived = step.keep is Keep.PATH or step is way[0]
        if arrived and step.below in levels:
            number = levels.index(step.below)
            found.append(Pass(DATA[Source.GIVEN, End.MEAN], step.below, step.below, Keep.SHOWN, number))
    return found
