"""Generated and hostile input against real servers, for as long as `ELBOD_FUZZ_SECONDS` says: `make fuzz`.

A run with the same `ELBOD_FUZZ_SEED` generates the same input.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from elbod_store import ModelStore
from tests.support import Server, issue_key, publish_kinds

SECONDS = float(os.environ.get("ELBOD_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("ELBOD_FUZZ_SEED") or random.SystemRandom().randrange(2**32))
# Small, so that the document's limits are reached, and an answer to each request takes milliseconds.
LIMITS = {"ELBOD_MAX_ROWS": "64", "ELBOD_MAX_NUM_SAMPLES": "16", "ELBOD_MAX_IMPORTANCE_SAMPLES": "64"}
_EXAMPLES = 200

# `make test` has no time for it.
collect_ignore_glob = [] if SECONDS else ["test_*.py"]


def pytest_report_header() -> list[str]:
    if not SECONDS:
        return []
    return [f"fuzz: {SECONDS:g} s; to repeat: make fuzz FUZZ_SECONDS={SECONDS:g} ELBOD_FUZZ_SEED={SEED}"]


class Budget:
    """The time and the seeds of one test: `share` of all time, rounds of which each has a seed."""

    def __init__(self, share: float) -> None:
        self.seconds = max(5.0, share * SECONDS)
        self.rounds = 0

    def seeds(self) -> Iterator[int]:
        """One seed after the other until the time is over; a failure names the one that it is of."""
        end = time.monotonic() + self.seconds
        while not self.rounds or time.monotonic() < end:
            self.rounds += 1
            yield SEED + self.rounds - 1

    def check(self, strategy: SearchStrategy[object], check: Callable[..., None]) -> None:
        """Hold that for every value of the strategy."""
        for number in self.seeds():
            bounded = settings(
                max_examples=_EXAMPLES,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            )
            seed(number)(bounded(given(strategy)(check)))()


@pytest.fixture
def budget(request: pytest.FixtureRequest) -> Iterator[Budget]:
    """The test's share of the time: `@pytest.mark.share(0.2)`."""
    marker = request.node.get_closest_marker("share")
    budget = Budget(marker.args[0])
    yield budget
    print(f"\n{request.node.name}: seeds {SEED} to {SEED + max(0, budget.rounds - 1)}")  # noqa: T201


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Models of each kind of row."""
    return publish_kinds(tmp_path_factory.mktemp("fuzzed") / "store")


@pytest.fixture(scope="session")
def plain(kinds: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without keys."""
    log = tmp_path_factory.mktemp("plain") / "log"
    server = Server(kinds.objects.url, log, "--model", "levels", ELBOD_REQUEST_TIMEOUT="5", **LIMITS)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server with keys and `--admin`, on a store of its own, and a key of both scopes."""
    folder = tmp_path_factory.mktemp("guarded")
    store: ModelStore = publish_kinds(folder / "store")
    keys: Path = folder / "keys.json"
    _, key = issue_key(keys, "infer", "admin")
    flags = ("--model", "levels", "--admin", "--keys-file", str(keys))
    server = Server(store.objects.url, folder / "log", *flags, ELBOD_REQUEST_TIMEOUT="5", **LIMITS)
    yield server, key
    server.stop()
