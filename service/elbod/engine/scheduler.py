"""Which units run next: pure policy over integers, without clock, thread or tensor."""

from collections.abc import Sequence

# A part of a tile costs the engine about as much as some rows cost the network: large jobs share a tile in few parts.
_LARGE_PARTS = 4


def next_tile(waiting: Sequence[int], sizes: Sequence[int]) -> tuple[int, list[int]]:
    """(size, units of each job) of the next tile of one lane.

    `waiting` has the units, > 0, of the jobs that wait, in turn order, at least one and at most `max(sizes)` of them.
    Those that need no more than an equal part of the tile are in it: a job of one row rides along with jobs of a
    million. The others share the rest in turn, at least a quarter of a tile at a time; a job that gets nothing is first
    the next time. `sizes` ascends; the tile has the smallest size that holds its units, since a padded row costs as
    much as a real one.
    """
    capacity, units = sizes[-1], sum(waiting)
    if units <= capacity:
        return _smallest(sizes, units), list(waiting)
    share = capacity // len(waiting)
    counts = [units if units <= share else 0 for units in waiting]
    left = capacity - sum(counts)
    for grain in (max(share, capacity // _LARGE_PARTS), capacity):
        for place, units in enumerate(waiting):
            more = min(units - counts[place], grain, left)
            counts[place] += more
            left -= more
    return capacity, counts


def _smallest(sizes: Sequence[int], units: int) -> int:
    return next(size for size in sizes if size >= units)
