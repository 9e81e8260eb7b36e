"""Training runs: logs whose newest entry names the state to go on from."""

from typing import Any

import pytest

from elbod_store import Conflict, Corrupt, InvalidDraft, InvalidName, ModelStore, RunDraft, StoreError, UnknownRun
from elbod_store.names import blob_key, numbered, run_prefix
from elbod_store.testing.damage import swap
from elbod_store.testing.drafts import flips, safetensors_bytes
from elbod_store.testing.fixture import StoreFixture


def an_entry(run: str = "digits-1", worker: str = "a", **changes: Any) -> RunDraft:
    fields = {"who": "ada", "data": "0" * 64, "training": {"seed": 1, "recipe": {"epochs": 3}}}
    return RunDraft(run=run, worker=worker, **(fields | changes))


class RunTests(StoreFixture):
    def test_the_newest_entry_is_the_run_as_it_is_now(self, store: ModelStore) -> None:
        first = store.append_run(an_entry(), expected=0)
        state = safetensors_bytes(1)
        second = store.append_run(an_entry(epoch=2, step=7, published=[3], contents=[state]), expected=1)
        assert (first.number, first.blobs, first.finished) == (1, (), False)
        assert store.run("digits-1") == second
        assert (second.number, second.epoch, second.step, second.published) == (2, 2, 7, (3,))
        assert store.read(second.blobs[0]) == state
        kept = store.append_run(an_entry(blobs=second.blobs), expected=2)
        assert kept.blobs == second.blobs
        assert store.runs() == ["digits-1"]

    def test_a_second_worker_of_one_run_finds_the_number_taken_and_loses_nothing(self, store: ModelStore) -> None:
        store.append_run(an_entry(worker="a"), expected=0)
        won = store.append_run(an_entry(worker="b", contents=[safetensors_bytes(1)]), expected=1)
        with pytest.raises(Conflict, match="driven by another worker, which wrote its entry 2"):
            store.append_run(an_entry(worker="a", contents=[safetensors_bytes(2)]), expected=1)
        assert store.run("digits-1") == won

    def test_an_entry_whose_answer_was_lost_does_not_stop_its_own_worker(self, store: ModelStore) -> None:
        for _ in range(2):
            entry = store.append_run(an_entry(), expected=0)
        assert entry.number == 2

    def test_an_unknown_run_says_so_and_suggests_close_ids(self, store: ModelStore) -> None:
        assert store.runs() == []
        store.append_run(an_entry(), expected=0)
        with pytest.raises(UnknownRun, match="did you mean 'digits-1'"):
            store.run("digit-1")
        for bad in ("", "..", "a/b", "Digits", "a" * 65):
            with pytest.raises(InvalidName):
                store.run(bad)

    def test_every_byte_of_a_run_entry_counts(self, store: ModelStore) -> None:
        store.append_run(an_entry(contents=[safetensors_bytes(1)]), expected=0)
        key = numbered(run_prefix("digits-1"), 1)
        raw = store.objects.get(key)
        for _, bad in flips(raw, every=1):
            store.objects.put(key, bad, durable=False)
            with pytest.raises(StoreError, match=key):
                store.run("digits-1")

    def test_run_entries_that_were_swapped_are_refused(self, store: ModelStore) -> None:
        keys = []
        for run in ("red", "blue"):
            store.append_run(an_entry(run), expected=0)
            keys.append(numbered(run_prefix(run), 1))
        swap(store, *keys)
        for run in ("red", "blue"):
            with pytest.raises(Corrupt, match="moved or swapped"):
                store.run(run)

    def test_a_state_whose_bytes_were_altered_is_never_returned(self, store: ModelStore) -> None:
        (blob,) = store.append_run(an_entry(contents=[safetensors_bytes(1)]), expected=0).blobs
        store.objects.put(blob_key(blob.digest), safetensors_bytes(2))
        with pytest.raises(Corrupt):
            store.read(blob)

    def test_an_entry_that_no_reader_would_take_is_not_written(self, store: ModelStore) -> None:
        for wrong in ({"data": "none"}, {"epoch": -1}, {"training": {"loss": float("nan")}}):
            with pytest.raises(InvalidDraft):
                store.append_run(an_entry(**wrong), expected=0)
        assert store.objects.list_after("runs") == []
