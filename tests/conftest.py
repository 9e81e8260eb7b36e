"""Real models, a real store and real server processes for every test that wants them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint, Generator
from elbod_store import Draft, Manifest, ModelStore

ELBOD = Path(sys.executable).with_name("elbod")


def build_generator(blueprint: Blueprint, seed: int = 0) -> Generator:
    """A generator with weights decided by the seed, wide enough that its answers differ from row to row."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = checkpoint.build(blueprint)
        rows = torch.rand(64, *blueprint.event_shape) * ((blueprint.levels or 2) - 1)
        generator.initialize(rows if blueprint.likelihood == "gaussian" else rows.round())
    return generator.eval().requires_grad_(False)


LEVELS = Blueprint(
    family="vae",
    spec={"latent_dim": 5, "hidden": [48]},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
)
BITS = Blueprint(
    family="vae",
    spec={"latent_dim": 3, "hidden": [32]},
    likelihood="bernoulli",
    event_shape=(3, 4),
    levels=2,
    binarization="stochastic",
)
LINEAR = Blueprint(family="ppca", spec={"latent_dim": 2}, likelihood="gaussian", event_shape=(6,))


def publish(store: ModelStore, name: str, blueprint: Blueprint, seed: int = 0) -> Manifest:
    """Publish an untrained model of that blueprint."""
    return store.publish(draft(name, blueprint, seed))


def draft(name: str, blueprint: Blueprint, seed: int = 0) -> Draft:
    """What a worker would hand to the store."""
    return Draft(
        name=name,
        family=blueprint.family,
        spec=checkpoint.canonical_spec(blueprint),
        likelihood=blueprint.likelihood,
        event_shape=blueprint.event_shape,
        levels=blueprint.levels,
        binarization=blueprint.binarization,
        weights=checkpoint.save(build_generator(blueprint, seed)),
    )


class Server:
    """A real `elbod serve` process on a free port."""

    def __init__(self, store: str | Path, log: Path, *flags: str, **variables: str) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [ELBOD, "serve", "--store", str(store), "--port", "0", *flags],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | variables,
                cwd=log.parent,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            self.process.kill()
            pytest.fail(f"the server did not start: {line!r}\n{log.read_text()}")
        self.url = found[0]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after that signal."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        with self.process:
            return self.process.wait(30)


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
def served_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with the models `levels` (default), `bits` and `linear`."""
    store = ModelStore.open(tmp_path_factory.mktemp("served") / "store")
    for name, blueprint in (("levels", LEVELS), ("bits", BITS), ("linear", LINEAR)):
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


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A plain HTTP client of the shared server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def levels_rows() -> Any:
    """(40, 8, 8) uint8 rows in the support of `levels`."""
    import numpy as np

    return np.random.default_rng(5).integers(0, 17, (40, 8, 8), dtype=np.uint8)
