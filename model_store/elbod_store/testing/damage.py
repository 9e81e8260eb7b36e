"""Altered bytes are never believed."""

import json
from typing import Any

import pytest

from elbod_store import (
    Corrupt,
    ModelStore,
    StoreError,
    Unsupported,
)
from elbod_store.canonical import canonical
from elbod_store.manifest import seal
from elbod_store.names import alias_prefix, blob_key, numbered, version_key
from elbod_store.testing.drafts import WHO, a_draft, flips, safetensors_bytes
from elbod_store.testing.fixture import StoreFixture


def swap(store: ModelStore, left: str, right: str) -> None:
    a, b = store.objects.get(left), store.objects.get(right)
    store.objects.put(left, b)
    store.objects.put(right, a)


class DamageTests(StoreFixture):
    def test_a_blob_is_believed_only_after_hashing(self, store: ModelStore) -> None:
        blob = store.publish(a_draft()).weights
        good = store.read(blob)
        assert store.fetch(blob).read_bytes() == good
        for index, bad in flips(good, every=13):
            store.objects.put(blob_key(blob.digest), bad)
            store.cache_dir.joinpath(blob.digest).unlink(missing_ok=True)
            with pytest.raises(Corrupt, match=blob.digest):
                store.read(blob)
            with pytest.raises(Corrupt, match=blob.digest):
                store.fetch(blob)
            assert not store.cache_dir.joinpath(blob.digest).exists(), index

    @pytest.mark.parametrize(
        "bad", [b"", safetensors_bytes(1)[:-1], safetensors_bytes(1) + b"\0", safetensors_bytes(9)]
    )
    def test_a_blob_that_was_cut_grown_or_swapped_is_refused(self, store: ModelStore, bad: bytes) -> None:
        blob = store.publish(a_draft(fill=1)).weights
        store.objects.put(blob_key(blob.digest), bad)
        for load in (store.read, store.fetch):
            with pytest.raises(Corrupt, match=blob.digest):
                load(blob)

    def test_a_blob_that_is_missing_is_corrupt(self, store: ModelStore) -> None:
        blob = store.publish(a_draft()).weights
        store.objects.delete(blob_key(blob.digest))
        for load in (store.read, store.fetch):
            with pytest.raises(Corrupt, match="missing"):
                load(blob)

    def test_a_byte_that_flips_after_the_fetch_is_detected_by_the_next(self, store: ModelStore) -> None:
        blob = store.publish(a_draft(fill=3)).weights
        path = store.fetch(blob)
        path.write_bytes(safetensors_bytes(4))
        if store.objects.local_path(blob_key(blob.digest)) == path:
            with pytest.raises(Corrupt):
                store.fetch(blob)
        else:
            assert store.fetch(blob).read_bytes() == safetensors_bytes(3)

    def test_every_byte_of_a_manifest_counts(self, store: ModelStore) -> None:
        store.publish(a_draft(fill=1))
        store.publish(a_draft(fill=2))
        key = version_key("digits", 2)
        raw = store.objects.get(key)
        for index, bad in flips(raw, every=1):
            store.objects.put(key, bad, durable=False)
            with pytest.raises(StoreError, match=key) as refusal:
                store.manifest("digits", 2)
            assert isinstance(refusal.value, Corrupt | Unsupported), index
        for bad in (b"", raw[:-1], raw + b"\n", raw * 2, b"null", b"[]", b"\xff", b"[" * 100_000, b"{}"):
            store.objects.put(key, bad)
            with pytest.raises(Corrupt, match=key):
                store.manifest("digits", 2)
            assert store.resolve("digits").version == 1

    def test_every_byte_of_an_alias_entry_counts(self, store: ModelStore) -> None:
        store.publish(a_draft(fill=1))
        store.publish(a_draft(fill=2))
        store.promote("digits", "production", 1, **WHO)
        store.promote("digits", "production", 2, **WHO)
        key = numbered(alias_prefix("digits", "production"), 2)
        raw = store.objects.get(key)
        for index, bad in flips(raw, every=1):
            store.objects.put(key, bad, durable=False)
            with pytest.raises(StoreError, match=key) as refusal:
                store.resolve("digits")
            assert isinstance(refusal.value, Corrupt | Unsupported), index
        with pytest.raises(StoreError, match=key):
            store.retire("digits", 1)
        assert store.promote("digits", "production", 1, **WHO).number == 3
        assert store.resolve("digits").version == 1

    def test_manifests_that_were_swapped_are_refused(self, store: ModelStore) -> None:
        for fill in range(2):
            store.publish(a_draft(fill=fill))
        swap(store, version_key("digits", 1), version_key("digits", 2))
        for damaged in ("digits@1", "digits@2"):
            with pytest.raises(Corrupt, match="moved or swapped"):
                store.resolve(damaged)

    def test_alias_entries_that_were_swapped_are_refused(self, store: ModelStore) -> None:
        for fill, alias in enumerate(("red", "blue")):
            store.publish(a_draft(fill=fill))
            store.promote("digits", alias, fill + 1, **WHO)
        swap(store, numbered(alias_prefix("digits", "red"), 1), numbered(alias_prefix("digits", "blue"), 1))
        for damaged in ("digits@red", "digits@blue"):
            with pytest.raises(Corrupt, match="moved or swapped"):
                store.resolve(damaged)

    @pytest.mark.parametrize(
        "change", [{"surprise": 1}, {"card": None}, {"event_shape": [0]}, {"digest": "0" * 64}, {"schema": 0}]
    )
    def test_a_manifest_that_breaks_the_rules_is_refused_though_its_checksum_is_right(
        self, store: ModelStore, change: dict[str, Any]
    ) -> None:
        store.publish(a_draft())
        key = version_key("digits", 1)
        store.objects.put(key, seal({**json.loads(store.objects.get(key)), **change}))
        with pytest.raises(Corrupt, match=key):
            store.resolve("digits")

    def test_a_manifest_that_lacks_a_key_is_refused(self, store: ModelStore) -> None:
        store.publish(a_draft())
        key = version_key("digits", 1)
        fields = json.loads(store.objects.get(key))
        for missing in fields:
            store.objects.put(key, seal({name: value for name, value in fields.items() if name != missing}))
            if missing != "checksum":
                with pytest.raises(Corrupt, match=missing if missing != "schema" else key):
                    store.resolve("digits")

    def test_a_newer_schema_says_to_upgrade_and_leaves_the_older_version_serving(self, store: ModelStore) -> None:
        store.publish(a_draft(fill=1))
        store.publish(a_draft(fill=2))
        store.objects.put(version_key("digits", 2), canonical({"schema": 2, "shape": "unheard of"}))
        assert store.resolve("digits").version == 1
        with pytest.raises(Unsupported, match="upgrade"):
            store.resolve("digits@2")
