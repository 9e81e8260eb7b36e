"""What a reference means now: loading on demand, hot swap, a bad version leaves the old one serving."""

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from elbod.engine.backends.eager import EagerBackend
from elbod.engine.residents import Residents
from elbod.errors import InvalidInput, ModelFailure, NotReady, UnknownModel
from elbod_store import ModelStore
from elbod_store.manifest import seal
from elbod_store.names import blob_key, version_key
from tests.support import LEVELS, LINEAR, publish

GIB = 2**30


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore.open(tmp_path / "store")


def open_residents(store: ModelStore, backend: EagerBackend, default: str | None = None, limit: int = GIB) -> Residents:
    return Residents(store, backend, default=default, max_loaded_bytes=limit)


def test_the_only_model_of_a_store_is_the_default(store: ModelStore, backend: EagerBackend) -> None:
    residents = open_residents(store, backend)
    with pytest.raises(NotReady, match="no model yet"):
        residents.acquire(None)
    publish(store, "levels", LEVELS)
    assert residents.acquire(None).description.version == 1
    assert residents.default is residents.acquire("levels@1") is residents.acquire("levels@latest")


def test_several_models_without_a_default_must_be_named(store: ModelStore, backend: EagerBackend) -> None:
    publish(store, "levels", LEVELS)
    publish(store, "linear", LINEAR)
    residents = open_residents(store, backend)
    assert not residents.ready
    with pytest.raises(InvalidInput, match="levels, linear"):
        residents.acquire(None)
    assert residents.ready
    residents.poll()
    assert residents.problems == []


@pytest.mark.parametrize("default", [None, "nobody"])
def test_models_are_followed_whatever_is_wrong_with_the_default(
    store: ModelStore, backend: EagerBackend, default: str | None
) -> None:
    publish(store, "levels", LEVELS, 1)
    publish(store, "linear", LINEAR)
    store.promote("levels", "production", 1, who="test", why="first")
    residents = open_residents(store, backend, default)
    residents.poll()
    assert residents.acquire("levels").description.version == 1
    publish(store, "levels", LEVELS, 2)
    store.promote("levels", "production", 2, who="test", why="better")
    residents.poll()
    assert residents.acquire("levels").description.version == 2
    assert residents.ready is (default is None)
    assert bool(residents.problems) is (default is not None)


@pytest.mark.parametrize(("reference", "hint"), [("levelz", "levels"), ("levels@9", "newest"), ("levels@prod", "prod")])
def test_what_does_not_exist_is_unknown(store: ModelStore, backend: EagerBackend, reference: str, hint: str) -> None:
    publish(store, "levels", LEVELS)
    with pytest.raises(UnknownModel, match=hint):
        open_residents(store, backend).acquire(reference)


def test_an_alias_move_and_a_new_version_are_followed_and_exact_versions_stay(
    store: ModelStore, backend: EagerBackend
) -> None:
    publish(store, "levels", LEVELS, 1)
    store.promote("levels", "production", 1, who="test", why="first")
    residents = open_residents(store, backend, "levels")
    first = residents.acquire(None)
    latest = residents.acquire("levels@latest")
    exact = residents.acquire("levels@1")
    assert first is latest is exact
    publish(store, "levels", LEVELS, 2)
    residents.poll()
    assert residents.acquire("levels@latest").description.version == 2
    assert residents.default is first
    store.promote("levels", "production", 2, who="test", why="better")
    residents.poll()
    assert residents.default is residents.acquire("levels@latest")
    assert residents.acquire("levels@1") is exact
    assert residents.problems == []


def test_a_corrupt_version_is_refused_and_the_old_one_keeps_serving(store: ModelStore, backend: EagerBackend) -> None:
    publish(store, "levels", LEVELS, 1)
    residents = open_residents(store, backend)
    first = residents.acquire(None)
    second = publish(store, "levels", LEVELS, 2)
    path = store.objects.local_path(blob_key(second.weights.digest))
    assert path is not None
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    residents.poll()
    assert residents.find(None) is first
    assert any("levels@2" in problem and "sha256" in problem for problem in residents.problems)
    with pytest.raises(ModelFailure, match="levels@2"):
        residents.acquire("levels@2")
    third = publish(store, "levels", LEVELS, 3)
    residents.poll()
    default = residents.find(None)
    assert default is not None
    assert default.description.version == third.version == 3
    assert residents.problems == []


def test_a_retired_version_and_a_removed_alias_stop_being_served(store: ModelStore, backend: EagerBackend) -> None:
    publish(store, "levels", LEVELS, 1)
    publish(store, "levels", LEVELS, 2)
    store.promote("levels", "canary", 1, who="test", why="try")
    residents = open_residents(store, backend)
    residents.acquire(None)
    residents.acquire("levels@canary")
    residents.acquire("levels@1")
    store.unalias("levels", "canary", who="test", why="done")
    store.retire("levels", 1)
    residents.poll()
    with pytest.raises(UnknownModel, match="canary"):
        residents.acquire("levels@canary")
    with pytest.raises(UnknownModel, match="retired"):
        residents.acquire("levels@1")
    assert residents.acquire(None).description.version == 2


def test_the_least_recently_used_version_is_evicted_and_the_default_never(
    store: ModelStore, backend: EagerBackend
) -> None:
    for seed in range(4):
        publish(store, "levels", LEVELS, seed)
    store.promote("levels", "production", 4, who="test", why="newest")
    size = store.manifest("levels", 1).weights.size
    residents = open_residents(store, backend, "levels", limit=3 * size)
    default = residents.acquire(None)
    for version in (1, 2):
        residents.acquire(f"levels@{version}")
    residents.find("levels@1")
    residents.acquire("levels@3")
    assert residents.find(None) is default
    assert {resident.description.version for resident in residents.loaded()} == {4, 1, 3}


def test_a_model_larger_than_the_limit_is_refused_and_evicts_nobody(store: ModelStore, backend: EagerBackend) -> None:
    publish(store, "levels", LEVELS)
    wide = replace(LEVELS, spec={"latent_dim": 5, "hidden": [480]})
    publish(store, "wide", wide)
    size = store.manifest("levels", 1).weights.size
    residents = open_residents(store, backend, "levels", limit=2 * size)
    residents.acquire(None)
    with pytest.raises(ModelFailure, match="/readyz"):
        residents.acquire("wide")
    assert f"max_loaded_bytes is {2 * size}" in residents.problems[0]
    assert [str(resident) for resident in residents.loaded()] == ["levels@1"]
    publish(store, "levels", wide)
    residents.poll()
    assert residents.acquire(None).description.version == 1
    assert len(residents.problems) == 2


def test_a_default_that_fills_the_limit_can_be_swapped(store: ModelStore, backend: EagerBackend) -> None:
    publish(store, "levels", LEVELS)
    size = store.manifest("levels", 1).weights.size
    residents = open_residents(store, backend, "levels", limit=int(1.5 * size))
    residents.acquire(None)
    publish(store, "levels", LEVELS, 1)
    residents.poll()
    assert residents.acquire(None).description.version == 2
    with pytest.raises(ModelFailure):
        residents.acquire("levels@1")


@pytest.mark.slow
def test_memory_returns_after_eviction(store: ModelStore, backend: EagerBackend) -> None:
    """Models of 5 MB: sixty loads take no more memory than ten."""
    large = replace(LEVELS, spec={"latent_dim": 5, "hidden": [700, 700]})
    for seed in range(4):
        publish(store, "levels", large, seed)
    residents = open_residents(store, backend, "levels@1", limit=12_000_000)

    def load(times: int) -> float:
        for i in range(times):
            residents.acquire(f"levels@{2 + i % 3}")
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    few = load(10)
    assert load(60) < few + 50
    assert len(residents.loaded()) <= 2


@pytest.mark.parametrize("left", ["nothing", "a file", "an empty folder"])
def test_a_store_that_disappears_leaves_what_is_loaded_serving(
    store: ModelStore, backend: EagerBackend, tmp_path: Path, left: str
) -> None:
    publish(store, "levels", LEVELS)
    residents = open_residents(store, backend)
    first = residents.acquire(None)
    place, away = tmp_path / "store", tmp_path / "away"
    place.rename(away)
    if left == "a file":
        place.write_text("in the way")
    elif left == "an empty folder":
        place.mkdir()
    for _ in range(3):
        residents.poll()
        assert residents.find(None) is first
        assert residents.problems
    if left == "a file":
        place.unlink()
    elif left == "an empty folder":
        place.rmdir()
    away.rename(place)
    publish(store, "levels", LEVELS, 1)
    residents.poll()
    default = residents.find(None)
    assert default is not None
    assert default.description.version == 2
    assert residents.problems == []


def test_a_damaged_manifest_or_alias_entry_is_shown_and_the_old_version_keeps_serving(
    store: ModelStore, backend: EagerBackend, tmp_path: Path
) -> None:
    publish(store, "levels", LEVELS, 1)
    store.promote("levels", "production", 1, who="test", why="first")
    residents = open_residents(store, backend)
    first = residents.acquire(None)
    residents.acquire("levels@latest")
    publish(store, "levels", LEVELS, 2)
    manifest = tmp_path / "store/models/levels/versions/0000000002.json"
    sound = manifest.read_bytes()
    manifest.write_bytes(sound.replace(b"discretized", b"discretised"))
    residents.poll()
    assert residents.find("levels@latest") is first
    assert any("levels@2" in problem for problem in residents.problems)
    manifest.write_bytes(sound)
    store.promote("levels", "production", 2, who="test", why="better")
    entry = tmp_path / "store/models/levels/aliases/production/0000000002.json"
    sound = entry.read_bytes()
    entry.write_bytes(b"{}")
    residents.poll()
    assert residents.find(None) is first
    assert residents.problems
    entry.write_bytes(sound)
    residents.poll()
    default = residents.find(None)
    assert default is not None
    assert default.description.version == 2
    assert residents.problems == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": "0" * 64}, "claims the model digest 0000"),
        ({"spec": {"latent_dim": 6, "hidden": [48]}}, "claims the model digest"),
        ({"schema": 0}, "levels/versions/0000000002.json is malformed"),
        ({"schema": 2}, "schema 2, this elbod reads up to 1: upgrade"),
    ],
)
def test_a_manifest_of_another_digest_or_schema_is_refused_and_the_old_version_keeps_serving(
    store: ModelStore, backend: EagerBackend, change: dict[str, object], reason: str
) -> None:
    """Its checksum is right, so the file is whole: what it says of itself is not what it holds."""
    publish(store, "levels", LEVELS, 1)
    residents = open_residents(store, backend)
    first = residents.acquire(None)
    publish(store, "levels", LEVELS, 2)
    key = version_key("levels", 2)
    store.objects.put(key, seal({**json.loads(store.objects.get(key)), **change}))
    residents.poll()
    assert residents.find(None) is first
    assert any(reason in problem for problem in residents.problems), residents.problems
    with pytest.raises(ModelFailure, match="cannot be loaded"):
        residents.acquire("levels@2")


def test_requests_for_models_that_do_not_exist_leave_nothing_behind(store: ModelStore, backend: EagerBackend) -> None:
    publish(store, "levels", LEVELS)
    residents = open_residents(store, backend)
    residents.acquire(None)
    for i in range(20):
        with pytest.raises(UnknownModel):
            residents.acquire(f"typo{i}")
    residents.poll()
    assert residents.watched == ["levels"]
