"""The sums of a ledger: what replicas did, and what the living hold."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbod.scale import ledger
from elbod.scale.ledger import Family, Ledger, Snapshot, merged


def counting(rows: float, queue: float = 0, memory: float = 0) -> Snapshot:
    return {
        "rows": Family("counter", "", "sum", {("rows_total", (("verb", "elbo"),)): rows}),
        "queue": Family("gauge", "", "livesum", {("queue", ()): queue}),
        "models": Family("gauge", "", "livemax", {("models", ()): queue}),
        "memory": Family("gauge", "", "liveall", {("memory", ()): memory}),
    }


def test_counters_add_up_over_the_dead_and_gauges_over_the_living_by_their_mode() -> None:
    total = merged({"a": counting(3, 5, 7), "b": counting(4, 6, 8)}, [counting(100, 1000, 9)])
    assert total["rows"].samples == {("rows_total", (("verb", "elbo"),)): 107}
    assert total["queue"].samples == {("queue", ()): 11}
    assert total["models"].samples == {("models", ()): 6}
    assert total["memory"].samples == {("memory", (("pid", "a"),)): 7, ("memory", (("pid", "b"),)): 8}


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8))
def test_a_sum_does_not_depend_on_who_has_died(replicas: list[tuple[int, bool]]) -> None:
    living = {str(number): counting(rows) for number, (rows, alive) in enumerate(replicas) if alive}
    dead = [counting(rows) for rows, alive in replicas if not alive]
    found = merged(living, dead)
    total = sum(found["rows"].samples.values()) if found else 0
    assert total == sum(rows for rows, _ in replicas)


def test_silent_replicas_hold_nothing_and_the_oldest_are_added_up_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(ledger, "_MOST_SILENT", 2)
    kept: Any = Ledger()
    for replica in range(5):
        kept.tell(str(replica), counting(1, 10))
        now += 1
    now += ledger.SILENCE
    kept.tell("new", counting(1, 10))
    total = kept.all()
    assert len(kept._told) == 3
    assert sum(total["rows"].samples.values()) == 6
    assert sum(total["queue"].samples.values()) == 10
    assert kept.all() == total
