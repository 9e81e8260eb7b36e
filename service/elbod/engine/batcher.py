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


# A part of a tile costs the engine about as much as some rows cost the network: large jobs share a tile in few parts.
_LARGE_PARTS = 4


def next_tile(stage: Stage, pending: Iterable[Pending], sizes: Sequence[int]) -> Tile | None:
    """The next tile of one lane, None if nothing waits.

    `pending` comes in turn order. Of the first `max(sizes)` jobs those that need no more than an equal part of the tile
    are in it: a job of one row rides along with jobs of a million. The others share the rest in turn, at least a
    quarter of a tile at a time; whoever gets nothing is first the next time. `sizes` ascends; the tile has the smallest
    size that holds its units, since a padded row costs as much as a real one.
    """
    capacity = sizes[-1]
    turn = list(islice(pending, capacity))
    if not turn:
        return None
    share = capacity // len(turn)
    counts = [job.units if job.units <= share else 0 for job in turn]
    left = capacity - sum(counts)
    for grain in (max(share, capacity // _LARGE_PARTS), capacity):
        for place, job in enumerate(turn):
            more = min(job.units - counts[place], grain, left)
            counts[place] += more
            left -= more
    units = capacity - left
    size = next(size for size in sizes if size >= units)
    parts = (Part(job.job, count) for job, count in zip(turn, counts, strict=True) if count)
    return Tile(stage, size, tuple(parts))
