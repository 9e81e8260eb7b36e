"""A real store and real server processes for every test that wants them."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import settings

from elbod_store import ModelStore
from tests.seaweed import Seaweed
from tests.seaweed import running as running_seaweed
from tests.support import (
    BITS,
    CHAIN_OF_LABELS,
    CONVOLUTIONAL,
    DIFFUSION,
    FLOW_POSTERIOR,
    FLOW_PRIOR,
    HANG,
    LABELS,
    LADDER,
    LEVELS,
    LINEAR,
    MIXTURE,
    VAMP,
    Server,
    publish,
)

# A busy machine must not fail a test, and a failure must repeat in the next run.
settings.register_profile("elbod", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("elbod")


def pytest_configure() -> None:
    # For calls that name no timeout: httpx would give up after five seconds.
    default = httpx._config.DEFAULT_TIMEOUT_CONFIG
    default.connect = default.read = default.write = default.pool = HANG
    # Test processes share the cores, and threads that wait for each other spin.
    torch.set_num_threads(1)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    running: list[Server] = []

    def start(store: str | Path, *flags: str, **variables: str) -> Server:
        server = Server(store, tmp_path / f"server-{len(running)}.log", *flags, **variables)
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    """A real S3 server for all tests of this process."""
    # Its sockets lie below it, whose path must be short.
    with tempfile.TemporaryDirectory(prefix="weed") as folder, running_seaweed(Path(folder)) as seaweed:
        yield seaweed


@pytest.fixture
def s3_url(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix of a bucket, with this process and its children allowed to use it."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return seaweed.prefix()


@pytest.fixture(scope="session")
def served_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store of untrained models, one of each kind; `levels` is the default."""
    store = ModelStore.open(tmp_path_factory.mktemp("served") / "store")
    for name, blueprint in (
        ("levels", LEVELS),
        ("bits", BITS),
        ("linear", LINEAR),
        ("vamp", VAMP),
        ("flow_prior", FLOW_PRIOR),
        ("flow_posterior", FLOW_POSTERIOR),
        ("mixture", MIXTURE),
        ("convolutional", CONVOLUTIONAL),
        ("ladder", LADDER),
        ("labels", LABELS),
    ):
        publish(store, name, blueprint)
    return store


@pytest.fixture(scope="session")
def server(served_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of `served_store` for all tests that only read."""
    folder = tmp_path_factory.mktemp("server")
    server = Server(
        served_store.objects.url,
        folder / "log",
        "--model",
        "levels",
        ELBOD_MAX_ROWS="5000",
        ELBOD_MAX_BODY_BYTES="4000000",
    )
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def chain_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store of models whose draws take passes, `diffusion` and `labelled`, and of `levels`, whose draws take one."""
    store = ModelStore.open(tmp_path_factory.mktemp("chains") / "store")
    publish(store, "diffusion", DIFFUSION)
    publish(store, "labelled", CHAIN_OF_LABELS)
    publish(store, "levels", LEVELS)
    return store


@pytest.fixture(scope="session")
def chain_server(chain_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of `chain_store` with a short queue; `diffusion` is the default."""
    log = tmp_path_factory.mktemp("chain-server") / "log"
    limits = {"ELBOD_MAX_QUEUE_ROWS": "20000", "ELBOD_MAX_NUM_SAMPLES": "5000"}
    server = Server(chain_store.objects.url, log, "--model", "diffusion", **limits)
    yield server
    assert server.stop() == 0


@pytest.fixture
def chain_http(chain_server: Server) -> Iterator[httpx.Client]:
    """A plain HTTP client of `chain_server`."""
    with httpx.Client(base_url=chain_server.url, timeout=60) as client:
        yield client


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A plain HTTP client of the shared server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def levels_rows() -> Any:
    """(40, 8, 8) uint8 rows in the support of `levels`."""
    return np.random.default_rng(5).integers(0, 17, (40, 8, 8), dtype=np.uint8)
