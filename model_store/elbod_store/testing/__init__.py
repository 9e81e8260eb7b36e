"""What every store must do, as a suite to inherit.

    class TestMine(StoreTests):
        @pytest.fixture
        def store(self, tmp_path):
            return ModelStore.open("s3://...", cache_dir=tmp_path)

Needs pytest. Damage is done through `store.objects`, so the suite runs on any object store.
"""

import pytest

for _module in ("drafts", "publishing", "references", "damage", "watching", "running"):
    pytest.register_assert_rewrite(f"{__name__}.{_module}")

from elbod_store.testing.damage import DamageTests  # noqa: E402 - asserts are rewritten at import
from elbod_store.testing.drafts import WHO, a_draft, assert_complete, safetensors_bytes  # noqa: E402
from elbod_store.testing.publishing import PublishingTests  # noqa: E402
from elbod_store.testing.references import ReferenceTests  # noqa: E402
from elbod_store.testing.running import RunTests  # noqa: E402
from elbod_store.testing.watching import WatchTests  # noqa: E402


class StoreTests(PublishingTests, ReferenceTests, DamageTests, WatchTests, RunTests):
    """Override the fixture `store` with an empty store of the kind under test."""


__all__ = ["WHO", "StoreTests", "a_draft", "assert_complete", "safetensors_bytes"]
