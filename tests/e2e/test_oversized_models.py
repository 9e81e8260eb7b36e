"""What a publisher asks for is known before anything is allocated for it: no version takes the service down."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from elbod_store import Draft, ModelStore
from tests.support import LADDER, LEVELS, Server, draft, install_family, publish, wait_for

HUGE: dict[str, dict[str, object]] = {
    "wide layers": {"spec": {"latent_dim": 5, "hidden": [30_000, 30_000]}},
    "wider layers than any": {"spec": {"latent_dim": 5, "hidden": [2**40]}},
    "many layers": {"spec": {"latent_dim": 5, "hidden": [2] * 50_000}},
    "many pseudo-inputs": {"spec": {"latent_dim": 5, "hidden": [48], "prior": "vamp", "pseudo_inputs": 2**20}},
    "a wide flow": {
        "spec": {"latent_dim": 5, "hidden": [48], "prior": "flow", "flow_transforms": 1000, "flow_hidden": [9000]}
    },
    "many blocks": {"spec": {"latent_dim": 3, "network": "conv", "channels": [4, 6], "blocks": 2**20}},
    "many groups": {"family": "ladder", "spec": {**LADDER.spec, "groups": [2**20, 2**20]}},
    "many levels": {"levels": 2**40},
    "one level too many": {"levels": 65_537},
    "many logits": {"levels": 65_536, "likelihood": "categorical", "event_shape": (512, 512)},
    "a large event": {"event_shape": (2**20, 2**20)},
}

NEEDY = """
import torch
from elbod.generators.vae import VAE

class Needy(VAE):
    family = "needy"

    def __init__(self, blueprint, spec):
        super().__init__(blueprint, spec)
        torch.arange(10).sum().item()
        if blueprint.binarization == "large":
            torch.zeros(100_000).sum().item()
"""


def needy(binarization: str) -> Draft:
    return replace(draft("needy", LEVELS), family="needy", binarization=binarization)


def peak(server: Server) -> float:
    """MB that the server's worker has had at most."""
    pids = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return max(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3


def test_versions_of_impossible_sizes_are_refused_and_take_no_memory(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS)
    sound = draft("huge", LEVELS)
    for fields in HUGE.values():
        store.publish(replace(sound, **fields))  # type: ignore[arg-type]
    server = start_server(tmp_path / "store", "--model", "levels")
    before = peak(server)
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for version, name in enumerate(HUGE, 1):
            refused = http.post("/sample", json={"model": f"huge@{version}"})
            assert (name, refused.status_code) == (name, 500)
            assert any(f"huge@{version}" in problem for problem in http.get("/readyz").json()["problems"])
        assert http.post("/sample", json={}).status_code == 200
    assert peak(server) < before + 300


def test_the_default_may_be_of_an_impossible_size(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    store = ModelStore.open(tmp_path / "store")
    store.publish(replace(draft("huge", LEVELS), **HUGE["wide layers"]))  # type: ignore[arg-type]
    server = start_server(tmp_path / "store", "--model", "huge")
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    publish(store, "huge", LEVELS)
    wait_for(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "discretized_logistic_mixture", "categorical"])
def test_models_of_16_bits_are_loaded_and_served(
    tmp_path: Path, start_server: Callable[..., Server], likelihood: str
) -> None:
    blueprint = replace(LEVELS, levels=65_536, likelihood=likelihood, event_shape=(2, 4))
    publish(ModelStore.open(tmp_path / "store"), "deep", blueprint)
    server = start_server(tmp_path / "store", "--model", "deep")
    wait_for(lambda: httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200)
    body = {"num_samples": 2, "output": "mean", "seed": 1}
    x = httpx.post(f"{server.url}/sample", json=body, timeout=60).raise_for_status().json()["x"]
    assert 0 < x[0][0][0] < 65_535


@pytest.mark.parametrize(("mood", "status"), [("small", 200), ("large", 500)])
def test_a_constructor_may_read_small_tensors_and_is_told_of_large_ones(
    tmp_path: Path, start_server: Callable[..., Server], mood: str, status: int
) -> None:
    known = install_family(tmp_path / "packages", "needy", NEEDY)
    ModelStore.open(tmp_path / "store").publish(needy(mood))
    server = start_server(tmp_path / "store", "--model", "needy", **known)
    assert httpx.post(f"{server.url}/sample", json={}, timeout=60).status_code == status
    problems = " ".join(httpx.get(f"{server.url}/readyz").json()["problems"])
    assert ("reads the values of a large tensor" in problems) == (status == 500)
