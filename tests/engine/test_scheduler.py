"""Which units run next: properties of the policy alone."""

from hypothesis import given
from hypothesis import strategies as st

from elbod.engine.scheduler import next_tile

SIZES = (4, 8, 16, 32)
waiting_jobs = st.lists(st.integers(1, 10_000), min_size=1, max_size=32)


@given(waiting_jobs)
def test_a_tile_holds_all_that_waits_or_is_full(waiting: list[int]) -> None:
    _, counts = next_tile(waiting, SIZES)
    assert sum(counts) == min(32, sum(waiting))


@given(waiting_jobs)
def test_a_tile_has_the_smallest_size_that_holds_its_units(waiting: list[int]) -> None:
    chosen, counts = next_tile(waiting, SIZES)
    assert chosen == min(size for size in SIZES if size >= sum(counts))


@given(waiting_jobs)
def test_no_job_gets_more_units_than_it_has(waiting: list[int]) -> None:
    _, counts = next_tile(waiting, SIZES)
    assert all(0 <= count <= units for count, units in zip(counts, waiting, strict=True))


@given(st.integers(1, 10**6), st.integers(0, 31))
def test_a_job_of_one_row_rides_along_with_a_job_of_a_million(million: int, place: int) -> None:
    waiting = [million] * 31
    waiting.insert(place, 1)
    assert next_tile(waiting, SIZES)[1][place] == 1


@given(st.lists(st.integers(33, 10_000), min_size=5, max_size=32))
def test_large_jobs_take_turns_in_whole_parts(units: list[int]) -> None:
    """Each in its turn gets a quarter of a tile, and no job waits for more than the others' turns."""
    waiting = list(enumerate(units))
    served: list[int] = []
    while len(set(served)) < len(units):
        _, counts = next_tile([count for _, count in waiting], SIZES)
        assert counts == [8, 8, 8, 8] + [0] * (len(units) - 4)
        served += [job for job, _ in waiting[:4]]
        waiting = waiting[4:] + waiting[:4]
    assert len(served) < len(units) + 4
