"""A version that is visible is complete, whenever its publisher dies; on a folder and on S3."""

import subprocess
import sys
from pathlib import Path

import pytest

from elbod_store import ModelStore, UnknownModel
from elbod_store.publish import STEPS
from elbod_store.testing import a_draft, assert_complete

PUBLISHER = Path(__file__).with_name("publisher.py")
SIGKILL = -9


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ModelStore:
    url = tmp_path / "store" if request.param == "folder" else request.getfixturevalue("s3_url")
    return ModelStore.open(url, cache_dir=tmp_path / "cache")


def read_all(store: ModelStore) -> list[int]:
    try:
        return assert_complete(store)
    except UnknownModel:
        return []


@pytest.mark.parametrize("step", STEPS)
def test_a_publisher_killed_at_any_step_leaves_only_complete_versions(store: ModelStore, step: str) -> None:
    with subprocess.Popen([sys.executable, PUBLISHER, store.objects.url, step, "3"]) as publisher:
        while publisher.poll() is None:
            read_all(store)
    assert publisher.returncode == SIGKILL
    visible = STEPS.index(step) >= STEPS.index("manifest")
    assert read_all(store) == ([1, 2, 3] if visible else [1, 2])
    assert store.publish(a_draft()).version == (4 if visible else 3)
    assert read_all(store)[-1] == store.resolve("digits").version


@pytest.mark.parametrize("enough", [1, 5, 20])
def test_a_publisher_killed_in_the_middle_of_anything_leaves_only_complete_versions(
    store: ModelStore, enough: int
) -> None:
    with subprocess.Popen([sys.executable, PUBLISHER, store.objects.url]) as publisher:
        while len(read_all(store)) < enough:
            assert publisher.poll() is None
        publisher.kill()
    versions = read_all(store)
    assert versions == list(range(1, len(versions) + 1))
    assert store.publish(a_draft()).version == len(versions) + 1
