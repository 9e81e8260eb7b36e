"""Records of any size: what is too large is not written, and not read into memory."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from elbod_store import Corrupt, InvalidDraft, ModelStore, RunDraft
from elbod_store.testing import WHO, a_draft
from tests.support import LEVELS, Server, call_elbod, publish

TERABYTE = 2**40
NEXT = "models/digits/versions/0000000002.json"


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ModelStore:
    if request.param == "s3":
        url = request.getfixturevalue("s3_url")
    else:
        url = "memory://" if request.param == "memory" else str(tmp_path / "store")
    return ModelStore.open(url, cache_dir=tmp_path / "cache")


def an_entry(**changes: Any) -> RunDraft:
    fields = {"run": "run-1", "worker": "w", "who": "ada", "data": "0" * 64, "training": {}}
    return RunDraft(**(fields | changes))


def enlarge(store: ModelStore, key: str) -> None:
    """A terabyte in a folder, where it takes no room; elsewhere some megabytes."""
    path = store.objects.local_path(key)
    if path is None:
        store.objects.put(key, b" " * 5_000_000)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, TERABYTE)


def test_a_manifest_that_is_too_large_refuses_its_version_alone(store: ModelStore) -> None:
    store.publish(a_draft())
    enlarge(store, NEXT)
    for read in (lambda: store.manifest("digits", 2), lambda: store.resolve("digits@2")):
        with pytest.raises(Corrupt, match=f"{NEXT}.* has [0-9,]+ bytes, and 2,097,152 at most"):
            read()
    assert store.resolve("digits").version == store.resolve("digits@latest").version == 1
    watch = store.watch("digits")
    assert watch.resolve("digits").version == 1
    assert list(watch.refused) == [2]
    assert [manifest.version for manifest in store.manifests("digits")] == [1]
    assert [finding.place for finding in store.verify() if finding.problem] == ["digits@2"]
    with pytest.raises(Corrupt, match="0000000002"):
        store.garbage()


def test_a_publisher_passes_over_a_number_that_something_large_has_taken(store: ModelStore) -> None:
    store.publish(a_draft())

    def take(step: str) -> None:
        if step == "number":
            enlarge(store, NEXT)

    assert store.publish(a_draft(fill=2), on_step=take).version == 3
    assert store.resolve("digits").version == 3


def test_entries_of_aliases_and_runs_that_are_too_large_are_refused(store: ModelStore) -> None:
    store.publish(a_draft())
    store.promote("digits", "production", 1, **WHO)
    store.append_run(an_entry(), expected=0)
    enlarge(store, "models/digits/aliases/production/0000000002.json")
    enlarge(store, "runs/run-1/0000000002.json")
    reads: tuple[Callable[[], object], ...] = (
        lambda: store.resolve("digits@production"),
        lambda: store.history("digits", "production"),
        lambda: store.run("run-1"),
    )
    for read in reads:
        with pytest.raises(Corrupt, match="at most as elbod writes it"):
            read()


def test_hints_that_are_too_large_are_passed_over(store: ModelStore) -> None:
    for fill in (1, 2):
        store.publish(a_draft(fill=fill))
    store.promote("digits", "production", 1, **WHO)
    for hint in ("versions/_last", "aliases/production/_last", "_changed"):
        enlarge(store, f"models/digits/{hint}")
    assert store.resolve("digits@latest").version == 2
    assert store.resolve("digits").version == 1
    watch = store.watch("digits")
    assert watch.poll()
    assert watch.resolve("digits").version == 1


TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "card": ({"card": "x" * (256 * 1024 + 1)}, "card has 262,145 characters"),
    "training": ({"training": {"curve": [-81.234567890123] * 200_000}}, "shorten training"),
    "labels": ({"labels": [f"label {index:099}" for index in range(30_000)]}, "shorten labels"),
    "deep": ({"spec": {"a": json.loads("[" * 500 + "]" * 500)}}, "nested deeper"),
}


@pytest.mark.parametrize("field", TOO_MUCH)
def test_a_draft_that_would_be_too_large_is_refused_before_anything_is_written(store: ModelStore, field: str) -> None:
    changes, words = TOO_MUCH[field]
    with pytest.raises(InvalidDraft, match=words):
        store.publish(a_draft(**changes))
    assert store.objects.list_after("models") == store.objects.list_after("blobs") == []


def test_the_largest_card_is_published_and_comes_back(store: ModelStore, tmp_path: Path) -> None:
    card = "\N{GREEK SMALL LETTER MU}" * 256 * 1024
    store.publish(a_draft(card=card))
    assert store.resolve("digits").card == card
    store.export("digits", tmp_path / "out")
    assert store.import_(tmp_path / "out").card == card


def test_a_reason_or_a_run_that_is_too_large_is_not_written(store: ModelStore) -> None:
    store.publish(a_draft())
    with pytest.raises(InvalidDraft, match="shorten"):
        store.promote("digits", "production", 1, who="ada", why="x" * 3_000_000)
    assert store.aliases("digits") == {}
    with pytest.raises(InvalidDraft, match="shorten"):
        store.append_run(an_entry(training={"notes": "x" * 3_000_000}), expected=0)
    assert store.runs() == []


def test_a_server_whose_newest_version_is_a_terabyte_serves_the_one_before(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "digits", LEVELS)
    enlarge(store, NEXT)
    done = call_elbod(("models", "show", "digits@2", "--store", str(tmp_path / "store")), tmp_path, {})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "1,099,511,627,776 bytes" in done.stderr
    server = start_server(tmp_path / "store", "--model", "digits")
    answer = httpx.post(f"{server.url}/sample", json={"num_samples": 1}, timeout=60).raise_for_status()
    assert answer.json()["model"]["version"] == 1
