"""Garbage, verification, and versions as folders."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from elbod_store import Blob, Corrupt, InvalidDraft, Manifest, ModelStore, RunDraft, StoreError, Unavailable
from elbod_store.names import blob_key, version_key
from elbod_store.testing import WHO, a_draft, safetensors_bytes

NOW = timedelta(0)
LATER = datetime.now(UTC) + timedelta(days=2)


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ModelStore:
    if request.param == "s3":
        url = request.getfixturevalue("s3_url")
    else:
        url = "memory://" if request.param == "memory" else str(tmp_path / "store")
    return ModelStore.open(url, cache_dir=tmp_path / "cache")


def keys(store: ModelStore) -> set[str]:
    return {blob.key for blob in store.garbage(grace=NOW, now=LATER)}


def blob_keys(manifest: Manifest) -> set[str]:
    return {blob_key(blob.digest) for blob in manifest.blobs}


def test_what_a_live_version_or_a_run_names_is_no_garbage(store: ModelStore) -> None:
    first, second = (store.publish(a_draft(fill=fill, calibration=safetensors_bytes(9))) for fill in (1, 2))
    state = safetensors_bytes(3)
    draft = RunDraft(run="run-1", worker="w", who="ada", data="0" * 64, training={}, contents=[state])
    store.append_run(draft, expected=0)
    assert keys(store) == set()
    store.retire("digits", first.version)
    only_first = blob_keys(first) - blob_keys(second)
    assert blob_key(first.weights.digest) in only_first
    assert keys(store) == only_first
    newer = RunDraft(run="run-1", worker="w", who="ada", data="0" * 64, training={}, contents=[safetensors_bytes(4)])
    old = store.run("run-1").blobs[0]
    store.append_run(newer, expected=1)
    assert keys(store) == only_first | {blob_key(old.digest)}
    store.delete_garbage(store.garbage(grace=NOW, now=LATER))
    assert keys(store) == set()
    for blob in second.blobs:
        assert store.read(blob)
    with pytest.raises(Corrupt, match="is missing"):
        store.read(first.weights)


def test_a_file_that_was_half_copied_when_its_publisher_died_is_garbage_in_time(tmp_path: Path) -> None:
    store = ModelStore.open(tmp_path / "store")
    (tmp_path / "weights").write_bytes(safetensors_bytes(1))
    kept = store.publish(a_draft(weights=tmp_path / "weights"))
    staged = "blobs/sha256/staged/0123"
    store.objects.put(staged, b"half")
    assert keys(store) == {staged}
    assert store.garbage() == []
    store.delete_garbage(store.garbage(grace=NOW, now=LATER))
    assert keys(store) == set()
    assert store.read(kept.weights) == (tmp_path / "weights").read_bytes()


def test_what_is_young_is_left_alone(store: ModelStore) -> None:
    manifest = store.publish(a_draft())
    store.retire("digits", 1)
    assert store.garbage() == []
    assert {blob.key for blob in store.garbage(grace=timedelta(days=1), now=LATER)} == blob_keys(manifest)


def test_what_was_written_again_since_it_was_found_is_not_deleted(store: ModelStore) -> None:
    weights = store.publish(a_draft()).weights
    store.retire("digits", 1)
    garbage = store.garbage(grace=NOW, now=LATER)
    # On S3 times are whole seconds.
    written = store.objects.modified(blob_key(weights.digest))
    again = store.publish(a_draft())
    while store.objects.modified(blob_key(weights.digest)) == written:
        store.objects.put(blob_key(weights.digest), store.read(weights))
    store.delete_garbage(garbage)
    assert store.read(again.weights)


def test_a_publisher_whose_blob_is_taken_in_the_middle_puts_it_again(store: ModelStore) -> None:
    weights = store.publish(a_draft()).weights
    store.retire("digits", 1)

    def collect(step: str) -> None:
        if step == "manifest":
            store.objects.delete(blob_key(weights.digest))

    manifest = store.publish(a_draft(), on_step=collect)
    assert store.read(manifest.weights)


def test_nothing_is_garbage_while_something_cannot_be_read(store: ModelStore) -> None:
    store.publish(a_draft())
    store.retire("digits", 1)
    store.publish(a_draft(fill=2))
    store.objects.put(version_key("digits", 2), b"{}")
    with pytest.raises(Corrupt, match="0000000002"):
        store.garbage(grace=NOW, now=LATER)


def test_a_sound_store_has_no_problem_and_everything_was_looked_at(store: ModelStore) -> None:
    manifest = store.publish(a_draft(reference=safetensors_bytes(5)))
    store.promote("digits", "production", 1, **WHO)
    store.publish(a_draft(reference=safetensors_bytes(5)))
    findings = list(store.verify())
    assert [finding.problem for finding in findings] == [None] * len(findings)
    assert sum(finding.nbytes for finding in findings) == sum(blob.size for blob in manifest.blobs)
    assert {finding.place for finding in findings} == {"digits@1", "digits@2", "digits@production"}


DAMAGE: dict[str, tuple[Callable[[ModelStore, Blob], None], str]] = {
    "a flipped byte": (
        lambda store, blob: store.objects.put(
            blob_key(blob.digest), b"x" + store.objects.get(blob_key(blob.digest))[1:]
        ),
        "were altered",
    ),
    "a missing blob": (lambda store, blob: store.objects.delete(blob_key(blob.digest)), "is missing"),
    "a manifest": (lambda store, blob: store.objects.put(version_key("digits", 1), b"{}"), "0000000001"),
    "an alias": (
        lambda store, blob: store.objects.put("models/digits/aliases/production/0000000001.json", b"[]"),
        "production",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_named(store: ModelStore, kind: str) -> None:
    weights = store.publish(a_draft()).weights
    store.promote("digits", "production", 1, **WHO)
    store.publish(a_draft(name="fashion", fill=7))
    damage, words = DAMAGE[kind]
    damage(store, weights)
    problems = [finding for finding in store.verify() if finding.problem is not None]
    assert problems
    assert all(words in str(finding.problem) for finding in problems)
    assert all(finding.place.startswith("digits") for finding in problems)


def test_a_version_comes_back_from_its_folder_with_its_digest(store: ModelStore, tmp_path: Path) -> None:
    draft = a_draft(
        labels=["cat", "dog"], levels=17, reference=safetensors_bytes(5), metrics={"elbo": -1.5}, card="# Digits\n"
    )
    before = store.publish(draft)
    store.promote("digits", "production", 1, **WHO)
    store.export("digits", tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")
    assert (tmp_path / "out" / "README.md").read_text().endswith("# Digits\n")
    other = ModelStore.open(tmp_path / "other", cache_dir=tmp_path / "cache")
    after = other.import_(tmp_path / "out", "copy")
    assert (after.name, after.version, after.digest) == ("copy", 1, before.digest)
    for name in ("spec", "labels", "levels", "metrics", "training", "card", "reference", "calibration"):
        assert getattr(after, name) == getattr(before, name), name
    assert store.import_(tmp_path / "out").version == 2


@pytest.mark.parametrize("change", ["weights", "config", "format", "missing", "no config"])
def test_a_folder_that_was_altered_is_refused_and_nothing_published(tmp_path: Path, change: str) -> None:
    store = ModelStore.open("memory://", cache_dir=tmp_path / "cache")
    store.publish(a_draft())
    folder = tmp_path / "out"
    store.export("digits", folder)
    config = json.loads((folder / "config.json").read_text())
    if change == "weights":
        (folder / "model.safetensors").write_bytes(safetensors_bytes(99))
    elif change == "config":
        config["levels"] = 3
    elif change == "format":
        config["elbod"] = 1
    elif change == "missing":
        del config["spec"]
    (folder / "config.json").write_text(json.dumps(config))
    if change == "no config":
        (folder / "config.json").unlink()
    with pytest.raises(InvalidDraft):
        store.import_(folder)
    assert store.versions("digits") == [1]


def test_an_export_never_overwrites(tmp_path: Path) -> None:
    store = ModelStore.open("memory://", cache_dir=tmp_path / "cache")
    store.publish(a_draft())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(Unavailable, match="is not empty"):
        store.export("digits", tmp_path / "out")
    with pytest.raises(StoreError, match="did you mean"):
        store.export("digit", tmp_path / "new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_export_follows_no_link_to_a_folder(tmp_path: Path) -> None:
    store = ModelStore.open("memory://", cache_dir=tmp_path / "cache")
    store.publish(a_draft())
    (tmp_path / "private").mkdir()
    (tmp_path / "out").symlink_to("private")
    with pytest.raises(Unavailable, match="is a symbolic link"):
        store.export("digits", tmp_path / "out")
    assert list((tmp_path / "private").iterdir()) == []


def test_an_export_that_fails_leaves_no_file(tmp_path: Path) -> None:
    store = ModelStore.open("memory://", cache_dir=tmp_path / "cache")
    calibration = store.publish(a_draft()).calibration
    assert calibration is not None
    store.objects.put(blob_key(calibration.digest), b"damaged")
    with pytest.raises(Corrupt, match=calibration.digest):
        store.export("digits", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_pickle_named_weights_is_refused(tmp_path: Path) -> None:
    import pickle

    store = ModelStore.open("memory://", cache_dir=tmp_path / "cache")
    store.publish(a_draft())
    store.export("digits", tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(InvalidDraft):
        store.import_(tmp_path / "out")
