"""The shipped conformance suite, on a local folder, in memory and on a real S3 server."""

from pathlib import Path

import pytest

from elbod_store import ModelStore
from elbod_store.testing import StoreTests


class TestLocal(StoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ModelStore:
        return ModelStore.open((tmp_path / "a store, 100% local").as_uri(), cache_dir=tmp_path / "cache")

    def test_a_fetched_blob_is_the_stores_own_file(self, store: ModelStore, tmp_path: Path) -> None:
        from elbod_store.testing import a_draft

        path = store.fetch(store.publish(a_draft()).weights)
        assert path.is_relative_to(tmp_path / "a store, 100% local")
        assert not (tmp_path / "cache").exists()


class TestMemory(StoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ModelStore:
        return ModelStore.open("memory://", cache_dir=tmp_path / "cache")


class TestS3(StoreTests):
    @pytest.fixture
    def store(self, s3_url: str, tmp_path: Path) -> ModelStore:
        return ModelStore.open(s3_url, cache_dir=tmp_path / "cache")
