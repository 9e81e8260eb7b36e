"""Families of somebody's own that break their promises, served beside models that keep theirs."""

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from elbod_store import ModelStore
from tests.support import ELBOD, LABELS, LEVELS, VAMP, Server, draft, install_family, publish, wait_for, workers

FORGETFUL = """
from elbod.generators.vae import VAE

class Forgetful(VAE):
    family = "forgetful"

    def __init__(self, blueprint, spec):
        super().__init__(blueprint, spec)
        # The prior is a mixture, so nothing here has a closed form.
        self.kl_estimator = "closed_form"
"""

# What goes wrong is decided by the level of a row of one level, and by the switch.
MOODY = """
import os
import sys
import torch
from elbod.generators.cvae import CVAE
from elbod.generators.posteriors import DiagonalNormal

class Moody(CVAE):
    family = "moody"

    def label_log_prob(self):
        if os.path.exists(os.environ["MOODY_SWITCH"]):
            raise RuntimeError("a secret of the model")
        return super().label_log_prob()

    def encode(self, x, label=None):
        level = x[:, 0, 0] * (x.flatten(1).var(1) == 0)
        if (level == 16).any():
            sys.exit("a secret of the model")
        q = super().encode(x, label)
        if (level == 15).any():
            return DiagonalNormal(q.mean[1:], q.stddev[1:])
        if (level == 14).any():
            return DiagonalNormal(q.mean[:, 1:], q.stddev[:, 1:])
        return q
"""

ROW = [[(i * j) % 17 for i in range(8)] for j in range(8)]
LEAVING, SHORT, NARROW = ([[level] * 8] * 8 for level in (16, 15, 14))


def score(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/elbo", json={"seed": 1, "num_samples": 3} | body, timeout=60)


def test_a_family_that_hides_that_its_kl_is_sampled_never_serves(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    known = install_family(tmp_path / "packages", "forgetful", FORGETFUL)
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS)
    store.publish(replace(draft("forgetful", VAMP), family="forgetful"))
    server = start_server(tmp_path / "store", "--model", "levels", **known)
    before, rows = workers(server.process.pid), [ROW]
    expected = score(server.url, x=rows).json()["elbo"]
    for _ in range(3):
        answer = score(server.url, model="forgetful", x=rows)
        assert answer.status_code == 500, answer.text
        assert "cannot be loaded" in answer.json()["detail"]
        assert score(server.url, x=rows).json()["elbo"] == expected
    assert 'set kl_estimator = "monte_carlo"' in httpx.get(f"{server.url}/readyz").text.replace("\\", "")
    assert workers(server.process.pid) == before


def test_it_is_refused_at_publication_with_what_to_change(tmp_path: Path) -> None:
    known = install_family(tmp_path / "packages", "forgetful", FORGETFUL)
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).standard_normal((400, 3)))
    settings = [f"--set={one}" for one in ("prior=vamp", "pseudo_inputs=5", "hidden=8", "latent_dim=2")]
    command = [ELBOD, "train", "--store", "store", "--family", "forgetful", "--likelihood", "gaussian", "--epochs", "1"]
    done = subprocess.run(
        [*command, "--data", "rows.npz", "--name", "mine", *settings],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | known,
    )
    assert done.returncode == 1
    assert "not published: family 'forgetful' has kl_estimator \"closed_form\"" in done.stderr
    assert "mine" not in ModelStore.open(tmp_path / "store").names()


def test_whatever_a_model_does_only_the_request_that_it_does_it_to_fails(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    switch = tmp_path / "on"
    known = install_family(tmp_path / "packages", "moody", MOODY)
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS)
    store.publish(replace(draft("moody", LABELS), family="moody"))
    server = start_server(tmp_path / "store", "--model", "moody", MOODY_SWITCH=str(switch), **known)
    before = workers(server.process.pid)
    good: list[dict[str, Any]] = [
        {"x": [ROW, ROW], "label": 1},
        {"x": [ROW], "label": 2, "num_importance_samples": 30},
        {"x": [ROW], "model": "levels"},
    ]
    bad: list[dict[str, Any]] = [
        {"x": [ROW]},  # its marginal over labels needs label_log_prob
        *({"x": [ROW, row], "label": 1} for row in (LEAVING, SHORT, NARROW)),
    ]
    alone = [score(server.url, **body).json()["elbo"] for body in good]
    assert score(server.url, **bad[0]).status_code == 200
    switch.touch()
    bodies = (good + bad) * 6
    with ThreadPoolExecutor(len(bodies)) as callers:
        answers = list(callers.map(lambda body: score(server.url, **body), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        if body in good:
            assert answer.status_code == 200, answer.text
            assert answer.json()["elbo"] == alone[good.index(body)]
        else:
            assert answer.status_code == 500
            assert answer.json()["title"] == "Model failure"
            assert "secret" not in answer.text
    wait_for(lambda: "a secret of the model" in server.log.read_text())
    assert workers(server.process.pid) == before
    assert httpx.get(f"{server.url}/readyz").status_code == 200
