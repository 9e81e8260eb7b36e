"""What /readyz says, and to whom: it is open to all, and names the store, its files and their digests."""

from collections.abc import Callable
from pathlib import Path

import httpx

from elbod_store import ModelStore
from elbod_store.names import blob_key
from tests.support import LEVELS, Server, bearer, issue_key, publish, wait_for


def test_readiness_tells_strangers_how_many_problems_there_are_and_keyed_callers_which(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS)
    _, key = issue_key(tmp_path / "keys.json", "infer")
    server = start_server(tmp_path / "store", "--model", "levels", "--keys-file", str(tmp_path / "keys.json"))
    broken = publish(store, "levels", LEVELS, 1)
    blob = store.objects.local_path(blob_key(broken.weights.digest))
    assert blob is not None
    blob.write_bytes(b"damaged")
    wait_for(lambda: bool(httpx.get(f"{server.url}/readyz").json()["problems"]))
    for headers in ({}, bearer("elbod_no_key")):
        told = httpx.get(f"{server.url}/readyz", headers=headers)
        assert (told.status_code, set(told.json())) == (200, {"ready", "draining", "model", "problems"})
        assert told.json()["model"] == "levels@1"
        assert "problems: 1" in told.json()["problems"][0]
        assert not any(secret in told.text for secret in (str(tmp_path), broken.weights.digest, "sha256", "levels@2"))
    known = httpx.get(f"{server.url}/readyz", headers=bearer(key)).json()
    assert known["loaded"] == ["levels@1"]
    assert "levels@2" in known["problems"][0]
    assert broken.weights.digest in known["problems"][0]
    wait_for(lambda: broken.weights.digest in server.log.read_text())
