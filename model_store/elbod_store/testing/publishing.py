"""Versions appear whole, in order, or not at all; retired ones stay away."""

from pathlib import Path
from typing import Any

import pytest

from elbod_store import (
    Conflict,
    InvalidDraft,
    ModelStore,
    Retired,
    UnknownModel,
    UnknownVersion,
)
from elbod_store.names import blob_key
from elbod_store.publish import STEPS
from elbod_store.testing.drafts import WHO, a_draft, assert_complete, safetensors_bytes
from elbod_store.testing.fixture import StoreFixture


class PublishingTests(StoreFixture):
    def test_a_published_version_reads_back_as_it_was_drafted(self, store: ModelStore) -> None:
        draft = a_draft(labels=("zero", "one"), levels=2, parent="digits@1")
        published = store.publish(draft)
        read = store.manifest("digits", 1)
        assert read == published
        assert (read.name, read.version, read.schema) == ("digits", 1, 1)
        for field in ("family", "spec", "likelihood", "event_shape", "levels", "binarization", "labels"):
            assert getattr(read, field) == getattr(draft, field), field
        for field in ("metrics", "training", "card", "parent"):
            assert getattr(read, field) == getattr(draft, field), field
        assert store.read(read.weights) == draft.weights
        assert read.reference is not None
        assert store.read(read.reference) == draft.reference
        assert read.calibration is not None
        assert store.read(read.calibration) == draft.calibration

    def test_versions_count_up_from_one_per_model(self, store: ModelStore) -> None:
        assert [store.publish(a_draft(fill=fill)).version for fill in range(12)] == list(range(1, 13))
        assert store.publish(a_draft("fashion")).version == 1
        assert store.versions("digits") == list(range(1, 13))
        assert store.names() == ["digits", "fashion"]

    def test_an_empty_store_has_no_names(self, store: ModelStore) -> None:
        assert store.names() == []

    def test_a_weights_file_is_streamed_from_its_path(self, store: ModelStore, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(safetensors_bytes(7, size=20_000_000))
        manifest = store.publish(a_draft(weights=path))
        assert manifest.weights.size == path.stat().st_size
        assert store.fetch(manifest.weights).read_bytes() == path.read_bytes()

    def test_a_file_that_changes_while_it_is_published_is_refused(self, store: ModelStore, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(safetensors_bytes(1))

        def change(step: str) -> None:
            if step == "start":
                path.write_bytes(safetensors_bytes(2))

        with pytest.raises(InvalidDraft, match="changed while"):
            store.publish(a_draft(weights=path), on_step=change)
        assert store.names() == []
        assert store.objects.list_after("blobs") == []

    def test_the_steps_are_told_in_order(self, store: ModelStore) -> None:
        steps: list[str] = []
        store.publish(a_draft(), on_step=steps.append)
        assert tuple(steps) == STEPS

    def test_a_version_is_invisible_until_its_manifest_exists(self, store: ModelStore) -> None:
        visible: dict[str, bool] = {}
        store.publish(a_draft(), on_step=lambda step: visible.update({step: store.names() == ["digits"]}))
        assert visible == {step: STEPS.index(step) >= STEPS.index("manifest") for step in STEPS}

    def test_a_publisher_that_fails_between_steps_leaves_nothing_visible(self, store: ModelStore) -> None:
        class Stop(Exception):
            pass

        def stop(step: str) -> None:
            if step == "number":
                raise Stop

        with pytest.raises(Stop):
            store.publish(a_draft(), on_step=stop)
        assert store.names() == []
        assert store.publish(a_draft()).version == 1

    def test_a_number_that_was_taken_meanwhile_is_passed_over(self, store: ModelStore) -> None:
        other = ModelStore(store.objects, store.cache_dir)

        def overtake(step: str) -> None:
            if step == "number":
                other.publish(a_draft(fill=1))
                other.publish(a_draft(fill=2))

        assert store.publish(a_draft(fill=3), on_step=overtake).version == 3
        assert assert_complete(store) == [1, 2, 3]

    def test_a_blob_that_is_collected_while_publishing_is_put_again(self, store: ModelStore) -> None:
        def collect(step: str) -> None:
            if step == "manifest":
                for key in store.objects.list_after("blobs"):
                    store.objects.delete(key)

        store.publish(a_draft(), on_step=collect)
        assert assert_complete(store) == [1]

    def test_publishing_again_heals_a_damaged_blob(self, store: ModelStore) -> None:
        manifest = store.publish(a_draft())
        store.objects.put(blob_key(manifest.weights.digest), b"rubbish")
        store.publish(a_draft())
        assert assert_complete(store) == [1, 2]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"metrics": {"elbo": float("nan")}}, r"metrics\.elbo is nan"),
            ({"training": {"curve": [0.0, float("-inf")]}}, r"training\.curve\[1\] is -inf"),
            ({"spec": {"size": 2**64}}, r"spec\.size is 18446744073709551616"),
            ({"spec": {1: 2}}, "JSON keys are text"),
            ({"spec": {"weights": b"1"}}, r"spec\.weights has type bytes"),
            ({"card": "\ud800"}, "card is not valid Unicode"),
            ({"event_shape": (8, 0)}, r"event_shape\[1\] is 0"),
            ({"levels": True}, "levels is True"),
            ({"labels": "abc"}, "labels must be a sequence"),
            ({"parent": "digits@production"}, "names no version"),
            ({"parent": "../digits@1"}, "parent: "),
            ({"family": ""}, "family is empty"),
            ({"reference": "rows"}, "reference is a str"),
            ({"weights": bytearray(8)}, "weights is a bytearray"),
            ({"weights": Path("/nowhere/model.safetensors")}, "cannot read"),
        ],
    )
    def test_a_draft_that_could_not_be_read_back_is_refused(
        self, store: ModelStore, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidDraft, match=message):
            store.publish(a_draft(**changes))
        assert store.objects.list_after("blobs") == []

    def test_a_retired_version_is_gone_and_its_number_is_not_used_again(self, store: ModelStore) -> None:
        store.publish(a_draft(fill=1))
        store.publish(a_draft(fill=2))
        store.retire("digits", 2)
        store.retire("digits", 2)
        assert store.versions("digits") == [1]
        assert store.resolve("digits").version == 1
        with pytest.raises(Retired, match="newest live version is digits@1"):
            store.resolve("digits@2")
        assert store.publish(a_draft(fill=3)).version == 3

    def test_a_model_whose_versions_are_all_retired_has_no_name(self, store: ModelStore) -> None:
        store.publish(a_draft())
        store.retire("digits", 1)
        assert store.names() == []
        assert store.versions("digits") == []
        with pytest.raises(Retired, match="every version"):
            store.resolve("digits")

    def test_a_version_that_an_alias_points_to_is_not_retired(self, store: ModelStore) -> None:
        store.publish(a_draft(fill=1))
        store.promote("digits", "canary", 1, **WHO)
        with pytest.raises(Conflict, match="'canary'"):
            store.retire("digits", 1)
        store.unalias("digits", "canary", **WHO)
        store.retire("digits", 1)
        with pytest.raises(UnknownVersion):
            store.retire("digits", 2)
        with pytest.raises(UnknownModel):
            store.retire("nothing", 1)
