"""An engine of this process and models loaded into it."""

from collections.abc import Iterator

import pytest

from elbod.engine.admission import Limits
from elbod.engine.backends.eager import EagerBackend
from elbod.engine.compute import Compute
from elbod.engine.loading import Resident, load
from elbod_store import ModelStore


@pytest.fixture(scope="session")
def backend() -> EagerBackend:
    return EagerBackend()


@pytest.fixture(scope="session")
def residents(served_store: ModelStore, backend: EagerBackend) -> dict[str, Resident]:
    return {name: load(served_store, served_store.resolve(name), backend) for name in served_store.names()}


@pytest.fixture
def engine(backend: EagerBackend) -> Iterator[Compute]:
    engine = Compute(backend, Limits())
    engine.start()
    yield engine
    assert engine.drain(30)
