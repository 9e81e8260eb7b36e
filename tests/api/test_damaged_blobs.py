"""What is damaged in the store is told as that: neither the caller's fault nor a bug, and never served."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from elbod_store import Manifest, ModelStore
from elbod_store.names import blob_key
from tests.support import LEVELS, Server, draft, publish

ROWS = save({"x": np.zeros((2, 8, 8), np.float32), "reconstruction_at_mode": np.zeros(2)})
SCORES = save({"elbo_16": np.arange(3.0)})


def bfloat16(name: str) -> bytes:
    header = f'{{"{name}":{{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}}}'.encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


MALFORMED: dict[str, tuple[str, bytes]] = {
    "no safetensors": ("calibration", b"scores"),
    "no rows": ("calibration", save({"elbo_16": np.zeros(0)})),
    "negative draws": ("calibration", save({"elbo_-16": np.arange(3.0)})),
    "no draws": ("calibration", save({"elbo_0": np.arange(3.0)})),
    "another name": ("calibration", save({"scores": np.arange(3.0)})),
    "not ascending": ("calibration", save({"elbo_16": np.array([2.0, 1.0])})),
    "bfloat16 scores": ("calibration", bfloat16("elbo_16")),
    "no safetensors either": ("reference", b"rows"),
    "bfloat16 rows": ("reference", bfloat16("x")),
}


def described(refused: httpx.Response) -> tuple[int, str]:
    assert refused.headers["content-type"] == "application/problem+json"
    return refused.status_code, refused.json()["type"]


@pytest.fixture
def http(tmp_path: Path, start_server: Callable[..., Server]) -> httpx.Client:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS)
    for blob, content in MALFORMED.values():
        store.publish(replace(draft("malformed", LEVELS), **{blob: content}))  # type: ignore[arg-type]
    # Of bytes of their own: equal ones are one blob.
    damage(store, store.publish(replace(draft("altered", LEVELS), reference=ROWS)), "reference")
    damage(store, store.publish(replace(draft("altered", LEVELS), calibration=SCORES)), "calibration")
    damage(store, store.publish(draft("altered", LEVELS, 1)), "weights")
    return httpx.Client(base_url=start_server(tmp_path / "store", "--model", "levels").url, timeout=60)


def damage(store: ModelStore, manifest: Manifest, blob: str) -> None:
    path = store.objects.local_path(blob_key(getattr(manifest, blob).digest))
    assert path is not None
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))


DAMAGED = (502, "urn:elbod:problem:damaged-store")


def test_blobs_that_were_altered_or_are_malformed_are_the_stores_problem(http: httpx.Client) -> None:
    with http:
        for version, (blob, _) in enumerate(MALFORMED.values(), 1):
            asked = http.get(f"/models/malformed/versions/{version}/{blob}")
            loaded = http.post("/sample", json={"model": f"malformed@{version}"})
            assert (version, described(asked), described(loaded)) == (version, DAMAGED, DAMAGED)
        for path in ("1/reference", "2/calibration"):
            assert described(http.get(f"/models/altered/versions/{path}")) == DAMAGED
        for version in (1, 2, 3):
            refused = http.post("/sample", json={"model": f"altered@{version}"})
            assert described(refused) == DAMAGED
            assert "/readyz" in refused.json()["detail"]
        assert http.post("/sample", json={}).status_code == 200


def test_a_manifest_that_was_altered_is_the_stores_problem(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS)
    publish(store, "levels", LEVELS, 1)
    path = tmp_path / "store/models/levels/versions/0000000002.json"
    path.write_bytes(path.read_bytes().replace(b"discretized", b"discretised"))
    with httpx.Client(base_url=start_server(tmp_path / "store").url, timeout=60) as http:
        for suffix in ("", "/reference", "/calibration"):
            assert described(http.get(f"/models/levels/versions/2{suffix}")) == DAMAGED
        assert described(http.post("/sample", json={"model": "levels@2"})) == DAMAGED
        assert http.post("/sample", json={}).json()["model"]["version"] == 1
