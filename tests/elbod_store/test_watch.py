"""What a watch costs, whatever the length of a model's history."""

from pathlib import Path
from typing import Any

import pytest

from elbod_store import ModelStore
from elbod_store.catalogue import PAGE
from elbod_store.names import version_key
from elbod_store.objects import Objects
from elbod_store.testing import WHO, a_draft


class Counts:
    """A real object store that counts what is listed."""

    def __init__(self, objects: Objects) -> None:
        self.inner = objects
        self.lists = 0
        self.listed = 0

    def list_after(self, prefix: str, after: str | None = None) -> list[str]:
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


def test_the_cost_of_a_poll_does_not_grow_with_the_number_of_versions(objects: Counts, tmp_path: Path) -> None:
    store = ModelStore(objects, tmp_path)
    store.publish(a_draft())
    raw = objects.get(version_key("digits", 1))
    for version in range(2, 3 * PAGE):
        objects.put(version_key("digits", version), raw)
    watch = store.watch("digits")
    watch.poll()
    objects.lists = objects.listed = 0
    assert not watch.poll()
    assert (objects.lists, objects.listed) == (3, 1), "only the hint comes after the last version"
    published = store.publish(a_draft()).version
    store.promote("digits", "production", published, **WHO)
    assert watch.poll()
    assert watch.resolve("digits").version == published
    assert watch.poll() is False
    store.promote("digits", "canary", published, **WHO)
    assert watch.poll()
