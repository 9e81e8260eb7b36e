"""Rows that a model has no finite numbers for: the caller hears which, and never sees them as pictures of something."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from elbod.generators.base import Blueprint
from elbod_store import ModelStore
from tests.support import Server, draft, install_family, publish

# Latents beyond 100 decode to NaN, and all do while the switch is there.
MODULE = """
import os
import torch
from elbod.generators.vae import VAE

class Brittle(VAE):
    family = "brittle"

    def decode(self, z, label=None):
        beyond = (z.abs() > 100).any(1, keepdim=True) | os.path.exists(os.environ["BRITTLE_SWITCH"])
        return super().decode(torch.where(beyond, torch.nan, z))
"""

LIKELIHOODS = {
    "bernoulli": 2,
    "categorical": 256,
    "discretized_logistic": 256,
    "discretized_logistic_mixture": 17,
    "gaussian": None,
    "continuous_bernoulli": None,
}
GAUSSIAN = Blueprint(
    family="vae", spec={"latent_dim": 2, "hidden": [16]}, likelihood="gaussian", event_shape=(3, 4), levels=None
)
NEAR, FAR = [0.5, -1.0], [0.0, 101.0]


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("switch") / "on"


@pytest.fixture(scope="module")
def brittle(tmp_path_factory: pytest.TempPathFactory, switch: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("brittle")
    known = install_family(folder / "packages", "brittle", MODULE)
    store = ModelStore.open(folder / "store")
    for likelihood, levels in LIKELIHOODS.items():
        blueprint = replace(GAUSSIAN, likelihood=likelihood, levels=levels)
        store.publish(replace(draft(likelihood, blueprint), family="brittle"))
    publish(store, "real", GAUSSIAN)
    publish(store, "linear", replace(GAUSSIAN, family="ppca", spec={"latent_dim": 2}))
    server = Server(folder / "store", folder / "log", "--model", "real", BRITTLE_SWITCH=str(switch), **known)
    yield server
    assert server.stop() == 0


def problem(answer: httpx.Response, status: int, pointer: str | None) -> str:
    """The detail of a problem of that status about that one place."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    found = answer.json()
    assert [place["pointer"] for place in found.get("errors", [])] == ([] if pointer is None else [pointer])
    detail: str = found["detail"]
    return detail


@pytest.mark.parametrize("accept", ["application/json", "application/x-safetensors", "image/png"])
@pytest.mark.parametrize("output", ["sample", "mean"])
@pytest.mark.parametrize("model", LIKELIHOODS)
def test_a_latent_without_a_finite_decoding_is_named(brittle: Server, model: str, output: str, accept: str) -> None:
    body = {"model": model, "z": [NEAR, NEAR, FAR, NEAR], "output": output, "seed": 1}
    answer = httpx.post(f"{brittle.url}/sample", json=body, headers={"Accept": accept}, timeout=60)
    assert "z[2]" in problem(answer, 422, "/z/2")


def test_others_in_the_same_tile_keep_their_bytes(brittle: Server) -> None:
    def draw(rows: list[Any]) -> httpx.Response:
        return httpx.post(f"{brittle.url}/sample", json={"model": "bernoulli", "z": rows, "seed": 1}, timeout=60)

    alone = draw([NEAR, NEAR]).json()["x"]
    bodies = [[NEAR, NEAR], [NEAR, FAR]] * 12
    with ThreadPoolExecutor(len(bodies)) as callers:
        for body, answer in zip(bodies, callers.map(draw, bodies), strict=True):
            if FAR in body:
                problem(answer, 422, "/z/1")
            else:
                assert answer.json()["x"] == alone


def test_the_row_of_a_large_request_is_numbered_as_in_the_request(brittle: Server) -> None:
    z = np.zeros((9000, 2))
    z[8765] = FAR
    answer = httpx.post(f"{brittle.url}/sample", json={"model": "bernoulli", "z": z.tolist()}, timeout=60)
    assert "z[8765]" in problem(answer, 422, "/z/8765")


@pytest.mark.parametrize("model", LIKELIHOODS)
def test_prior_samples_that_are_not_finite_are_the_model_s_fault(brittle: Server, switch: Path, model: str) -> None:
    ask = {"model": model, "num_samples": 3, "seed": 1}
    assert httpx.post(f"{brittle.url}/sample", json=ask, timeout=60).status_code == 200
    switch.touch()
    try:
        for output in ("sample", "mean"):
            answer = httpx.post(f"{brittle.url}/sample", json=ask | {"output": output}, timeout=60)
            assert "not finite for row 0" in problem(answer, 500, None)
    finally:
        switch.unlink()


def test_heat_that_leads_beyond_a_model_is_the_caller_s(brittle: Server) -> None:
    hot = {"model": "bernoulli", "num_samples": 100, "temperature": 100.0, "seed": 1}
    assert "temperature" in problem(httpx.post(f"{brittle.url}/sample", json=hot, timeout=60), 422, "/temperature")


@pytest.mark.parametrize("value", [3e38, -1.1e6, 1e300])
def test_latents_beyond_any_prior_are_refused_at_the_door(http: httpx.Client, value: float) -> None:
    z = np.zeros((3, 5)).tolist()
    z[1][2] = value
    detail = problem(http.post("/sample", json={"z": z}), 422, "/z/1")
    assert "z[1]" in detail
    assert "1e+06" in detail


def test_large_latents_within_the_limit_are_decoded(http: httpx.Client) -> None:
    answer = http.post("/sample", json={"z": [[1e6, -1e6, 0, 0, 1]], "output": "mean"})
    assert answer.status_code == 200
    assert np.isfinite(answer.json()["x"]).all()


@pytest.mark.parametrize("value", [1e5, 1e10, 1e38, 1e39, 1e154, 1e200, 1.7e308])
@pytest.mark.parametrize("model", ["real", "linear", "gaussian"])
def test_far_rows_get_finite_numbers_or_are_named(brittle: Server, model: str, value: float) -> None:
    x = np.zeros((3, 3, 4))
    x[1] = value
    asked: list[tuple[str, dict[str, Any]]] = [
        ("sample", {}),
        ("sample", {"output": "mean", "temperature": 0}),
        ("encode", {}),
        ("encode", {"num_samples": 2}),
        ("elbo", {"num_samples": 2, "include": ["reconstruction_map"]}),
        ("elbo", {"num_importance_samples": 30}),
        ("elbo", {"target_standard_error": 0.5}),
    ]
    for verb, fields in asked:
        body = {"model": model, "x": x.tolist(), "seed": 3} | fields
        answer = httpx.post(f"{brittle.url}/{verb}", json=body, timeout=60)
        if answer.status_code == 200:
            numbers = answer.json()
            names = ("x", "z", "kl", "elbo", "iwae", "reconstruction_map", "standard_error")
            present = [np.array(numbers[name], float) for name in names if numbers.get(name) is not None]
            assert all(np.isfinite(values).all() for values in present)
        else:
            assert "x[1]" in problem(answer, 422, "/x/1")
