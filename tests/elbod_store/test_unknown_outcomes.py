"""Writes to a real S3 server whose answer does not tell their outcome: one version, never two, never none."""

from pathlib import Path

import pytest

from elbod_store import ModelStore, Unavailable
from elbod_store.testing import WHO, a_draft, assert_complete
from tests.elbod_store.flaky import FLAWS, proxy
from tests.seaweed import Seaweed


@pytest.mark.parametrize("flaw", FLAWS)
def test_whatever_happens_to_an_answer_there_is_one_version_and_one_entry(
    seaweed: Seaweed, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    with proxy(seaweed.endpoint, flaw) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = ModelStore.open(s3_url, cache_dir=tmp_path / "cache")
        for number in (1, 2):
            manifest = store.publish(a_draft(fill=number))
            assert manifest.version == number
            assert store.promote("digits", "production", number, **WHO).number == number
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweed.endpoint)
    straight = ModelStore.open(s3_url, cache_dir=tmp_path / "other")
    assert assert_complete(straight) == [1, 2]
    assert [entry.version for entry in straight.history("digits", "production")] == [1, 2]


def test_a_service_that_never_writes_leaves_no_version_and_says_so(
    seaweed: Seaweed, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(seaweed.endpoint, "not written, and 503", always=True) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = ModelStore.open(s3_url, cache_dir=tmp_path / "cache")
        with pytest.raises(Unavailable, match="cannot write models/digits"):
            store.publish(a_draft())
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweed.endpoint)
    straight = ModelStore.open(s3_url, cache_dir=tmp_path / "other")
    assert straight.names() == []
    assert straight.publish(a_draft()).version == 1


def test_a_service_that_writes_and_never_says_so_has_the_version_all_the_same(
    seaweed: Seaweed, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(seaweed.endpoint, "written, and the connection drops", always=True) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = ModelStore.open(s3_url, cache_dir=tmp_path / "cache")
        assert store.publish(a_draft()).version == 1
        assert store.publish(a_draft(fill=2)).version == 2
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweed.endpoint)
    assert assert_complete(ModelStore.open(s3_url, cache_dir=tmp_path / "other")) == [1, 2]
