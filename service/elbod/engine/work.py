"""A tile that may run: which units of which jobs, and where their rows are."""

from typing import NamedTuple

import numpy as np

from elbod.engine.jobs import Stage
from elbod.engine.loading import Resident
from elbod.engine.passes import Keep, Pass
from elbod.engine.programs import ENCODE, Move, Program
from elbod.engine.progress import Chunk, Counts, Progress
from elbod.engine.slots import SlotNumbers

_ENCODING = Pass(ENCODE)
_ZEROS = np.zeros(256, np.int64)


class Share(NamedTuple):
    """Consecutive units of one job in a tile: the slots of their rows, their draws, and the pass that these take."""

    progress: Progress
    chunk: Chunk
    start: int
    slots: SlotNumbers
    draws: Counts
    step: Pass

    def places(self) -> tuple[Counts, Counts]:
        """The level at which each unit stands, and the one below that its pass makes."""
        count, step = len(self.slots), self.step
        if step.keep is Keep.VISIT and self.chunk.visits is not None:
            level = self.chunk.visits[self.start : self.start + count, step.number]
            return level, level - 1
        return np.full(count, step.level), np.full(count, step.below)

    def made(self) -> Counts:
        """The level whose noise each unit draws: where a visit is, or what the pass makes."""
        level, below = self.places()
        return level if self.step.program.move is Move.VISIT else below

    def part(self, at: slice) -> "Share":
        """Some of the units."""
        return self._replace(start=self.start + at.start, slots=self.slots[at], draws=self.draws[at])

    def item(self, program: Program, unit: int) -> int:
        """The item of the chunk that a unit belongs to."""
        place = self.start + unit
        return place if program is ENCODE else int(self.chunk.units(place, 1)[0][0])


class Work(NamedTuple):
    """Units of several jobs for one program of one model, padded to `size`."""

    resident: Resident
    program: Program
    size: int
    shares: tuple[Share, ...]

    @property
    def walks(self) -> SlotNumbers:
        """Where the units' draws are, of a family with levels."""
        return np.concatenate([share.chunk.walks[share.start :][: len(share.slots)] for share in self.shares])

    @property
    def units(self) -> int:
        return sum(len(share.slots) for share in self.shares)

    @property
    def stage(self) -> Stage:
        return Stage.ENCODE if self.program is ENCODE else Stage.DRAW

    def alone(self, share: Share) -> "Work":
        """One share in a tile of the same size."""
        return self._replace(shares=(share,))

    def smaller(self) -> "list[Work]":
        """The same units in tiles of the next smaller size; none if there is no smaller one."""
        sizes = [size for size in self.resident.sizes if size < self.size]
        if not sizes:
            return []
        size, found, shares, room = sizes[-1], list[Work](), list[Share](), sizes[-1]
        for share in self.shares:
            share.chunk.running -= 1
            begin = 0
            while begin < len(share.slots):
                end = min(begin + room, len(share.slots))
                shares.append(share.part(slice(begin, end)))
                share.chunk.running += 1
                room -= end - begin
                begin = end
                if not room:
                    found.append(self._replace(size=size, shares=tuple(shares)))
                    shares, room = [], size
        return [*found, self._replace(size=size, shares=tuple(shares))] if shares else found


def take(progress: Progress, units: int) -> Share:
    """The next units of a job whose rows are in slots."""
    chunk = progress.chunk
    assert chunk is not None
    chunk.running += 1
    if chunk.encoded < len(chunk.slots):
        start = chunk.encoded
        chunk.encoded += units
        return Share(progress, chunk, start, chunk.slots[start : chunk.encoded], _first_draws(units), _ENCODING)
    start, step = chunk.drawn, chunk.passes[chunk.at]
    chunk.take(units)
    if isinstance(chunk.draws, int) and chunk.draws == 1:
        return Share(progress, chunk, start, chunk.slots[start : start + units], _first_draws(units), step)
    items, draws = chunk.units(start, units)
    return Share(progress, chunk, start, chunk.slots[items], draws, step)


def _first_draws(units: int) -> Counts:
    return _ZEROS[:units] if units <= len(_ZEROS) else np.zeros(units, np.int64)
