"""What a watch costs, whatever the length of a model's history."""

from pathlib import Path
from typing import Any

import pytest

from elbod_store import ModelStore, Unavailable
from elbod_store.catalogue import PAGE
from elbod_store.names import version_key
from elbod_store.objects import Objects
from elbod_store.testing import WHO, a_draft
from elbod_store.watch import POLLS_PER_LISTING, Watch


class Counts:
    """A real object store that counts what is asked, and whose listings can be away."""

    def __init__(self, objects: Objects) -> None:
        self.inner = objects
        self.lists = self.listed = self.gets = 0
        self.away = False

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        self.gets += 1
        return self.inner.get(key, limit=limit)

    def list_after(self, prefix: str, after: str | None = None) -> list[str]:
        if self.away:
            raise Unavailable("away")
        keys = self.inner.list_after(prefix, after)
        self.lists += 1
        self.listed += len(keys)
        return keys

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def objects() -> Counts:
    return Counts(Objects.open("memory://"))


def test_a_poll_is_one_list_request(objects: Counts, tmp_path: Path) -> None:
    store = ModelStore(objects, tmp_path)
    watch = store.watch("digits")
    store.publish(a_draft())
    store.promote("digits", "production", 1, **WHO)
    objects.lists = 0
    watch.poll()
    watch.poll()
    assert objects.lists == 2


@pytest.fixture
def long(objects: Counts, tmp_path: Path) -> ModelStore:
    """A model with more keys than a page of a listing."""
    store = ModelStore(objects, tmp_path)
    store.publish(a_draft())
    raw = objects.get(version_key("digits", 1))
    for version in range(2, 3 * PAGE):
        objects.put(version_key("digits", version), raw)
    return store


def settled(store: ModelStore) -> Watch:
    watch = store.watch("digits")
    watch.poll()
    watch.poll()
    return watch


def test_a_poll_of_a_long_history_is_one_request_for_one_key_and_every_30th_lists_what_is_new(
    objects: Counts, long: ModelStore
) -> None:
    watch = settled(long)
    objects.lists = objects.listed = objects.gets = 0
    assert not any(watch.poll() for _ in range(POLLS_PER_LISTING))
    assert (objects.lists, objects.listed, objects.gets) == (3, 1, POLLS_PER_LISTING), "the hint comes after versions"


def test_watches_that_began_together_or_saw_one_change_do_not_list_together(objects: Counts, long: ModelStore) -> None:
    watches = [settled(long) for _ in range(60)]

    def busiest_round() -> int:
        lists = []
        for _ in range(POLLS_PER_LISTING):
            objects.lists = 0
            assert [watch.poll() for watch in watches] == [False] * len(watches)
            lists.append(objects.lists)
        assert sum(lists) == 3 * len(watches)
        return max(lists)

    assert busiest_round() <= 3 * 20
    long.promote("digits", "canary", 1, **WHO)
    assert [watch.poll() for watch in watches] == [True] * len(watches)
    assert busiest_round() <= 3 * 20


def test_the_cost_of_looking_at_a_change_does_not_grow_with_the_number_of_versions(
    objects: Counts, long: ModelStore
) -> None:
    watch = settled(long)
    published = long.publish(a_draft()).version
    objects.lists = objects.listed = 0
    assert watch.poll()
    assert (objects.lists, objects.listed) == (3, 2), "only the new version and the hint come after the last version"
    assert watch.resolve("digits").version == published
    assert watch.poll() is False
    for change in (
        lambda: long.promote("digits", "production", published, **WHO),
        lambda: long.promote("digits", "canary", 1, **WHO),
        lambda: long.retire("digits", 2),
        lambda: long.unalias("digits", "canary", **WHO),
    ):
        change()
        assert watch.poll()
        assert watch.poll() is False


def test_a_change_that_its_writer_died_before_announcing_is_noticed_all_the_same(
    objects: Counts, long: ModelStore
) -> None:
    watch = settled(long)
    objects.put(version_key("digits", 3 * PAGE), objects.get(version_key("digits", 1)))
    assert [watch.poll() for _ in range(POLLS_PER_LISTING)].count(True) == 1


def test_a_change_that_could_not_be_looked_at_is_reported_by_the_next_poll(objects: Counts, long: ModelStore) -> None:
    watch = settled(long)
    long.publish(a_draft())
    objects.away = True
    with pytest.raises(Unavailable):
        watch.poll()
    objects.away = False
    assert watch.poll()


def test_a_listing_that_failed_at_its_turn_is_made_by_the_next_poll(objects: Counts, long: ModelStore) -> None:
    watch = settled(long)
    objects.put(version_key("digits", 3 * PAGE), objects.get(version_key("digits", 1)))
    objects.away = True
    with pytest.raises(Unavailable):
        any(watch.poll() for _ in range(POLLS_PER_LISTING))
    objects.away = False
    assert watch.poll()
