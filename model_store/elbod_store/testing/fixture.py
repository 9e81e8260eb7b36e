"""The one thing that a store under test has to give."""

from pathlib import Path

import pytest

from elbod_store import ModelStore


class StoreFixture:
    """Override the fixture `store`."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> ModelStore:
        """An empty store."""
        raise NotImplementedError("give a fixture `store` that returns an empty ModelStore")
