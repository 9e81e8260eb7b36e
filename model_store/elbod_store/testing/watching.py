"""A watch notices, and never hides what still serves."""

from collections.abc import Callable

import pytest

from elbod_store import (
    Corrupt,
    InvalidName,
    ModelStore,
    UnknownModel,
)
from elbod_store.names import alias_prefix, numbered, version_key
from elbod_store.testing.drafts import WHO, a_draft
from elbod_store.testing.fixture import StoreFixture


class WatchTests(StoreFixture):
    def test_a_watch_notices_every_change_once(self, store: ModelStore) -> None:
        watch = store.watch("digits")
        assert not watch.poll()
        changes: list[Callable[[], object]] = [
            lambda: store.publish(a_draft(fill=1)),
            lambda: store.publish(a_draft(fill=2)),
            lambda: store.promote("digits", "production", 1, **WHO),
            lambda: store.promote("digits", "production", 2, **WHO),
            lambda: store.rollback("digits", "production", **WHO),
            lambda: store.unalias("digits", "production", **WHO),
            lambda: store.retire("digits", 1),
        ]
        for change in changes:
            change()
            assert watch.poll()
            assert not watch.poll()
        store.publish(a_draft("fashion"))
        assert not watch.poll()

    def test_a_watch_resolves_what_it_saw_at_its_last_poll(self, store: ModelStore) -> None:
        watch = store.watch("digits")
        with pytest.raises(UnknownModel):
            watch.resolve("digits")
        store.publish(a_draft(fill=1))
        assert watch.poll()
        assert watch.resolve("digits").version == 1
        store.publish(a_draft(fill=2))
        assert watch.resolve("digits").version == 1
        assert watch.poll()
        assert watch.resolve("digits").version == 2
        assert watch.resolve("digits@1").version == 1
        with pytest.raises(InvalidName, match="not a reference to 'digits'"):
            watch.resolve("fashion")

    def test_a_watch_passes_over_a_damaged_version_and_says_why(self, store: ModelStore) -> None:
        store.publish(a_draft(fill=1))
        watch = store.watch("digits")
        assert watch.poll()
        store.publish(a_draft(fill=2))
        key = version_key("digits", 2)
        raw = store.objects.get(key)
        store.objects.put(key, raw[:-2])
        assert watch.poll()
        assert watch.resolve("digits").version == 1
        assert isinstance(watch.refused[2], Corrupt)
        assert key in str(watch.refused[2])
        store.promote("digits", "production", 1, **WHO)
        assert watch.poll()
        with pytest.raises(Corrupt, match=key):
            watch.resolve("digits@2")
        store.publish(a_draft(fill=3))
        assert watch.poll()
        assert watch.resolve("digits@latest").version == 3
        assert not watch.refused

    def test_a_damaged_alias_entry_does_not_bring_back_the_version_before(self, store: ModelStore) -> None:
        for fill in range(2):
            store.publish(a_draft(fill=fill))
            store.promote("digits", "production", fill + 1, **WHO)
        watch = store.watch("digits")
        store.objects.put(numbered(alias_prefix("digits", "production"), 2), b"rubbish")
        assert watch.poll()
        with pytest.raises(Corrupt):
            watch.resolve("digits")
        assert watch.resolve("digits@latest").version == 2
