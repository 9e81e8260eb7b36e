"""Two publishers never share a version; two promoters never lose an update."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from elbod_store import Conflict, ModelStore
from elbod_store.testing import a_draft, assert_complete

RACER = Path(__file__).with_name("racer.py")
ROUNDS = 200
# On S3; some hundred are run by hand.
S3_ROUNDS = int(os.environ.get("ELBOD_S3_RACES", "40"))


def race(url: str | Path, kind: str, processes: int, rounds: int = ROUNDS) -> list[tuple[int, str]]:
    """What each process believes it won, from a common start."""
    racers = [
        subprocess.Popen(
            [sys.executable, RACER, url, kind, str(rounds // processes), f"racer{me}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(processes)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [(number, who) for racer in racers for number, who in json.loads(racer.communicate()[0])]
    assert all(racer.returncode == 0 for racer in racers)
    return sorted(won)


@pytest.mark.parametrize("processes", [2, 8])
def test_racing_processes_never_share_a_version_and_lose_none(tmp_path: Path, processes: int) -> None:
    won = race(tmp_path, "publish", processes)
    store = ModelStore.open(tmp_path)
    assert [version for version, _ in won] == list(range(1, ROUNDS + 1))
    assert [(version, store.manifest("digits", version).card) for version in assert_complete(store)] == won


@pytest.mark.parametrize("processes", [2, 8])
def test_racing_processes_never_lose_a_promotion(tmp_path: Path, processes: int) -> None:
    store = ModelStore.open(tmp_path)
    store.publish(a_draft())
    won = race(tmp_path, "promote", processes)
    assert [(entry.number, entry.who) for entry in store.history("digits", "production")] == won
    assert [number for number, _ in won] == list(range(1, len(won) + 1))


@pytest.mark.parametrize("processes", [2, 8])
def test_on_s3_racing_processes_lose_and_share_nothing(s3_url: str, tmp_path: Path, processes: int) -> None:
    published = race(s3_url, "publish", processes, S3_ROUNDS)
    store = ModelStore.open(s3_url, cache_dir=tmp_path)
    assert [version for version, _ in published] == list(range(1, S3_ROUNDS + 1))
    assert [(version, store.manifest("digits", version).card) for version in assert_complete(store)] == published
    promoted = race(s3_url, "promote", processes, S3_ROUNDS)
    assert [(entry.number, entry.who) for entry in store.history("digits", "production")] == promoted
    assert [number for number, _ in promoted] == list(range(1, len(promoted) + 1))


def test_racing_threads_share_one_store_in_memory(tmp_path: Path) -> None:
    store = ModelStore.open("memory://", cache_dir=tmp_path)
    start = threading.Barrier(8)

    def publish_and_promote(me: int) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
        start.wait()
        published, promoted = [], []
        for turn in range(ROUNDS // 8):
            manifest = store.publish(a_draft(fill=turn, card=f"{me}-{turn}"))
            published.append((manifest.version, manifest.card))
            try:
                entry = store.promote("digits", "production", manifest.version, who=f"{me}-{turn}", why="race")
            except Conflict:
                continue
            promoted.append((entry.number, entry.who))
        return published, promoted

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(publish_and_promote, range(8)))
    published = sorted(won for result in results for won in result[0])
    promoted = sorted(won for result in results for won in result[1])
    assert [version for version, _ in published] == list(range(1, ROUNDS + 1))
    assert [(version, store.manifest("digits", version).card) for version in store.versions("digits")] == published
    assert [(entry.number, entry.who) for entry in store.history("digits", "production")] == promoted


def test_racing_retirement_and_promotion_never_leave_an_alias_on_a_retired_version(tmp_path: Path) -> None:
    store = ModelStore.open("memory://", cache_dir=tmp_path)
    with ThreadPoolExecutor(2) as pool:
        for turn in range(100):
            version = store.publish(a_draft(fill=turn)).version
            sides = [
                pool.submit(store.retire, "digits", version),
                pool.submit(store.promote, "digits", "production", version, who="ada", why="race"),
            ]
            assert any(side.exception() is not None for side in sides)
            assert not set(store.aliases("digits").values()) - set(store.versions("digits"))
