"""Which units run next: properties of the policy alone."""

from hypothesis import given
from hypothesis import strategies as st

from elbod.engine.scheduler import Pending, next_tile

SIZES = (4, 8, 16, 32)
waiting = st.lists(st.integers(1, 10_000), max_size=100).map(
    lambda units: [Pending(job, count) for job, count in enumerate(units)]
)


@given(waiting)
def test_a_tile_holds_all_that_waits_or_is_full(pending: list[Pending]) -> None:
    tile = next_tile(pending, SIZES)
    if not pending:
        assert tile is None
        return
    assert tile is not None
    assert sum(part.count for part in tile.parts) == min(32, sum(job.units for job in pending))


@given(waiting.filter(bool))
def test_a_tile_has_the_smallest_size_that_holds_its_units(pending: list[Pending]) -> None:
    tile = next_tile(pending, SIZES)
    assert tile is not None
    units = sum(part.count for part in tile.parts)
    assert tile.size == min(size for size in SIZES if size >= units)


@given(waiting.filter(bool))
def test_no_job_gets_more_units_than_it_has(pending: list[Pending]) -> None:
    tile = next_tile(pending, SIZES)
    assert tile is not None
    units = {job.job: job.units for job in pending}
    assert all(1 <= part.count <= units[part.job] for part in tile.parts)
    assert len({part.job for part in tile.parts}) == len(tile.parts)


@given(st.integers(1, 10**6), st.integers(0, 31))
def test_a_job_of_one_row_rides_along_with_a_job_of_a_million(million: int, place: int) -> None:
    pending = [Pending(job, million) for job in range(31)]
    pending.insert(place, Pending(31, 1))
    tile = next_tile(pending, SIZES)
    assert tile is not None
    assert 31 in {part.job for part in tile.parts}


def test_jobs_beyond_the_tile_wait_for_their_turn() -> None:
    tile = next_tile((Pending(job, 1) for job in range(40)), SIZES)
    assert tile is not None
    assert [part.job for part in tile.parts] == list(range(32))


@given(st.lists(st.integers(33, 10_000), min_size=5, max_size=100))
def test_large_jobs_take_turns_in_whole_parts(units: list[int]) -> None:
    """Each in its turn gets a quarter of a tile, and nobody waits for more than the others' turns."""
    waiting = [Pending(job, count) for job, count in enumerate(units)]
    served: list[int] = []
    while len(set(served)) < len(units):
        tile = next_tile(waiting, SIZES)
        assert tile is not None
        assert [part.count for part in tile.parts] == [8, 8, 8, 8]
        assert [part.job for part in tile.parts] == [pending.job for pending in waiting[:4]]
        served += [part.job for part in tile.parts]
        waiting = waiting[4:] + waiting[:4]
    assert len(served) < len(units) + 4
