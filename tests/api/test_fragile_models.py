"""A family of somebody's own whose forward fails for some rows, behind a real server."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import LEVELS, Server, draft, install_family, wait_for

MODULE = """
import torch
from elbod.generators.vae import VAE

class Fragile(VAE):
    family = "fragile"

    def encode(self, x, label=None):
        of_one_level = x.flatten(1).var(1) == 0
        if (of_one_level & (x[:, 0, 0] == 16)).any():
            raise RuntimeError("a secret of the model")
        undefined = (of_one_level & (x[:, 0, 0] == 15))[:, None, None]
        return super().encode(torch.where(undefined, torch.nan, x))
"""

GOOD, UNDEFINED, RAISING = ([[level] * 8] * 8 for level in (3, 15, 16))


@pytest.fixture
def server(tmp_path: Path, start_server: Callable[..., Server]) -> Server:
    known = install_family(tmp_path / "packages", "fragile", MODULE)
    store = ModelStore.open(tmp_path / "store")
    store.publish(replace(draft("fragile", LEVELS), family="fragile"))
    return start_server(tmp_path / "store", "--model", "fragile", **known)


def test_only_the_request_whose_row_the_model_fails_on_fails(server: Server) -> None:
    def score(rows: list[Any]) -> httpx.Response:
        return httpx.post(f"{server.url}/elbo", json={"x": rows, "seed": 1, "num_samples": 3}, timeout=60)

    alone = score([GOOD, GOOD]).json()
    bodies = [[GOOD, GOOD], [GOOD, GOOD, UNDEFINED], [GOOD, GOOD], [GOOD, RAISING, GOOD]] * 6
    with ThreadPoolExecutor(len(bodies)) as callers:
        answers = list(callers.map(score, bodies))
    for body, answer in zip(bodies, answers, strict=True):
        if body == [GOOD, GOOD]:
            assert answer.json()["elbo"] == alone["elbo"]
            continue
        assert answer.status_code == (422 if UNDEFINED in body else 500)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "secret" not in answer.text
        place = "not finite for x[2]" if UNDEFINED in body else "model 'fragile@1' failed on x[1]"
        assert place in answer.json()["detail"]
    wait_for(lambda: "a secret of the model" in server.log.read_text())
    assert httpx.get(f"{server.url}/readyz").status_code == 200
