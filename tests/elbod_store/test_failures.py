"""A store that is broken, full, lying or forked says so, and a failed publish leaves no version."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elbod_store import Conflict, ModelStore, Unavailable, Unsupported
from elbod_store.objects import Objects
from elbod_store.testing import WHO, a_draft, assert_complete, safetensors_bytes
from tests.support import disk_of


class Wrapped:
    """A real object store, of which a test answers some calls itself."""

    def __init__(self, objects: Objects) -> None:
        self.inner = objects

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class LosesAnswers(Wrapped):
    """Every create of a record is done, then its answer is lost, as when a connection drops."""

    def create(self, key: str, content: bytes) -> bool:
        created = self.inner.create(key, content)
        if key.startswith("models/"):
            raise Unavailable("the answer was lost")
        return created


class RetriesBelow(Wrapped):
    """Every create of a record meets itself: a lost answer, retried by the client, finds its own write."""

    def create(self, key: str, content: bytes) -> bool:
        created = self.inner.create(key, content)
        return created and not key.startswith("models/")


class RefusesOnce(Wrapped):
    """The first create of each record is refused as existing although nothing was written."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        self.refused: set[str] = set()

    def create(self, key: str, content: bytes) -> bool:
        if key.startswith("models/") and key not in self.refused:
            self.refused.add(key)
            return False
        return self.inner.create(key, content)


class RefusesAlways(Wrapped):
    def create(self, key: str, content: bytes) -> bool:
        return not key.startswith("models/") and self.inner.create(key, content)


class IgnoresConditions(Wrapped):
    """Like the S3 look-alikes that overwrite whatever the condition says."""

    def create(self, key: str, content: bytes) -> bool:
        self.inner.put(key, content)
        return True


@pytest.fixture
def objects() -> Objects:
    return Objects.open("memory://")


@pytest.mark.parametrize("flaw", [LosesAnswers, RetriesBelow, RefusesOnce])
def test_an_answer_that_is_lost_or_wrong_makes_neither_a_gap_nor_a_double(
    objects: Objects, tmp_path: Path, flaw: type[Wrapped]
) -> None:
    flawed, sound = ModelStore(flaw(objects), tmp_path), ModelStore(objects, tmp_path)
    assert [flawed.publish(a_draft(fill=fill)).version for fill in range(3)] == [1, 2, 3]
    assert sound.publish(a_draft()).version == 4
    assert flawed.promote("digits", "production", 2, **WHO).number == 1
    flawed.retire("digits", 1)
    assert assert_complete(sound) == [2, 3, 4]
    assert len(sound.history("digits", "production")) == 1


@pytest.mark.parametrize("flaw", [LosesAnswers, RetriesBelow, RefusesOnce])
def test_a_promotion_that_was_really_lost_is_a_conflict_all_the_same(
    objects: Objects, tmp_path: Path, flaw: type[Wrapped]
) -> None:
    sound = ModelStore(objects, tmp_path)
    sound.publish(a_draft())

    class Overtaken(flaw):  # type: ignore[misc, valid-type]
        overtaken = False

        def create(self, key: str, content: bytes) -> bool:
            if key.endswith("production/0000000001.json") and not self.overtaken:
                self.overtaken = True
                sound.promote("digits", "production", 1, who="bob", why="faster")
            return super().create(key, content)

    with pytest.raises(Conflict):
        ModelStore(Overtaken(objects), tmp_path).promote("digits", "production", 1, **WHO)
    assert [entry.who for entry in sound.history("digits", "production")] == ["bob"]


def test_a_store_that_refuses_what_is_absent_is_unavailable(objects: Objects, tmp_path: Path) -> None:
    store = ModelStore(RefusesAlways(objects), tmp_path)
    with pytest.raises(Unavailable, match="yet there is none"):
        store.publish(a_draft())
    assert store.names() == []


def test_a_store_that_ignores_put_if_absent_is_refused_at_the_first_write(objects: Objects, tmp_path: Path) -> None:
    store = ModelStore(IgnoresConditions(objects), tmp_path)
    with pytest.raises(Unsupported, match="put-if-absent"):
        store.publish(a_draft())
    assert objects.list_after("blobs") == []


@pytest.mark.parametrize("blocked", ["blobs", "models", "models/digits/versions", "probe"])
def test_an_unwritable_store_is_unavailable_and_shows_no_version(tmp_path: Path, blocked: str) -> None:
    store = ModelStore.open(tmp_path)
    obstacle = tmp_path / blocked
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("a file where a folder belongs")
    with pytest.raises(Unavailable, match=blocked) as failure:
        store.publish(a_draft())
    assert str(tmp_path) in str(failure.value)
    obstacle.unlink()
    assert store.names() == []
    assert store.publish(a_draft()).version == 1


def test_a_store_that_is_a_file_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(Unavailable, match="cannot open the store"):
        ModelStore.open(tmp_path / "store")


def test_a_cache_that_cannot_be_written_is_unavailable(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    store = ModelStore(objects, tmp_path / "cache")
    blob = store.publish(a_draft()).weights
    with pytest.raises(Unavailable, match="cache"):
        store.fetch(blob)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "file://host/path", "file:relative", "file:///a?b=c", "memory://x"]
)
def test_a_url_of_another_kind_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unsupported, match="no store"):
        ModelStore.open(url)


def test_a_url_a_path_and_a_string_open_the_same_store(tmp_path: Path) -> None:
    path = tmp_path / "new" / "and deep"
    ModelStore.open(path).publish(a_draft())
    assert ModelStore.open(str(path)).names() == ModelStore.open(path.as_uri()).names() == ["digits"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(1, tmp_path / "disk") as disk:
        yield disk


def test_a_file_that_the_disk_has_no_room_for_leaves_no_part_of_its_copy(small_disk: Path, tmp_path: Path) -> None:
    store = ModelStore.open(small_disk / "store")
    store.publish(a_draft())
    before, weights = store.objects.list_after("blobs"), tmp_path / "weights"
    weights.write_bytes(safetensors_bytes(2, size=2_000_000))
    with pytest.raises(Unavailable, match="No space left"):
        store.publish(a_draft(weights=weights))
    assert store.objects.list_after("blobs") == before
    weights.write_bytes(safetensors_bytes(3, size=1_000))
    assert store.publish(a_draft(weights=weights)).version == 2


def test_a_full_disk_is_unavailable_shows_no_version_and_recovers(small_disk: Path) -> None:
    store = ModelStore.open(small_disk / "store")
    store.publish(a_draft(fill=1))
    with pytest.raises(Unavailable, match="No space left"):
        store.publish(a_draft(weights=safetensors_bytes(2, size=2_000_000)))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(Unavailable, match="No space left"):
        store.publish(a_draft(fill=3))
    with pytest.raises(Unavailable, match="No space left"):
        store.promote("digits", "production", 1, **WHO)
    assert assert_complete(store) == [1]
    assert store.aliases("digits") == {}
    ballast.unlink()
    assert store.publish(a_draft(fill=3)).version == 2
    assert assert_complete(store) == [1, 2]


def test_a_full_cache_is_unavailable_and_keeps_no_part(small_disk: Path, objects: Objects) -> None:
    store = ModelStore(objects, small_disk)
    blob = store.publish(a_draft(weights=safetensors_bytes(size=2_000_000))).weights
    with pytest.raises(Unavailable, match="No space left"):
        store.fetch(blob)
    assert list(small_disk.iterdir()) == []


FORKS = """
import os, sys
from elbod_store import ModelStore, Unsupported
store = ModelStore.open(sys.argv[1])
store.names()
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
for use in (store.names, lambda: ModelStore.open(sys.argv[1]).names()):
    try:
        use()
    except Unsupported as error:
        assert "spawn" in str(error)
    else:
        os._exit(1)
os._exit(7)
"""


def test_a_forked_child_gets_an_error_instead_of_hanging(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", FORKS, tmp_path], timeout=60, check=False).returncode == 7


def test_readers_in_threads_never_see_half_a_version(tmp_path: Path) -> None:
    store = ModelStore.open(tmp_path)
    store.publish(a_draft())
    done = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                assert_complete(ModelStore.open(tmp_path))
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for fill in range(20):
        store.publish(a_draft(fill=fill % 3, card=str(os.getpid())))
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
