from collections.abc import Iterator

import pytest

from elbod_client import Client
from tests.support import Server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of the shared server; its default model is `levels`."""
    with Client(server.url) as client:
        yield client
