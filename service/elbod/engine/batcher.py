"""Which units run next: pure policy, without clock, thread or tensor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from elbod.engine.jobs import Part, Stage, Tile


@dataclass(frozen=True, slots=True)
class Pending:
    """A job that waits with `units` > 0 units of one stage: rows to encode, or (row, draw) pairs to decode."""

    job: int
    units: int


def next_tile(stage: Stage, pending: Iterable[Pending], sizes: Sequence[int]) -> Tile | None:
    """The next tile of one lane, None if nothing waits.

    `pending` comes in turn order. The first `max(sizes)` jobs share the tile in equal parts, what is left over going
    to the first in turn: a job of one row rides along with a job of a million. `sizes` ascends; the tile has the
    smallest size that holds its units, since a padded row costs as much as a real one.
    """
    capacity = sizes[-1]
    turn = list(islice(pending, capacity))
    if not turn:
        return None
    share = capacity // len(turn)
    counts = [min(job.units, share) for job in turn]
    left = capacity - sum(counts)
    for place, job in enumerate(turn):
        extra = min(job.units - counts[place], left)
        counts[place] += extra
        left -= extra
    units = sum(counts)
    size = next(size for size in sizes if size >= units)
    return Tile(stage, size, tuple(Part(job.job, count) for job, count in zip(turn, counts, strict=True)))
