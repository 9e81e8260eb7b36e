"""An engine of this process and models loaded into it."""

from collections.abc import Iterator

import pytest
import torch

from elbod.engine.engine import Engine, Limits
from elbod.engine.loading import Resident, load
from elbod.engine.runner import Runner
from elbod_store import ModelStore


@pytest.fixture(scope="session")
def runner() -> Runner:
    return Runner(torch.device("cpu"))


@pytest.fixture(scope="session")
def residents(served_store: ModelStore, runner: Runner) -> dict[str, Resident]:
    return {name: load(served_store, served_store.resolve(name), runner) for name in served_store.names()}


@pytest.fixture
def engine(runner: Runner) -> Iterator[Engine]:
    engine = Engine(runner, Limits())
    engine.start()
    yield engine
    assert engine.drain(30)
