"""`elbod serve --engine ray`: the bytes, readiness, drain and metrics of one machine, by replicas that may die."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from elbod.errors import StartupError
from elbod.scale.serving import counts
from elbod_client import Client
from elbod_store import ModelStore
from tests.scale.conftest import Elbod
from tests.scale.nodes import Node
from tests.support import ELBOD, Server, wait_for


def test_replicas_are_a_number_or_a_range() -> None:
    assert counts("3") == (3, 3)
    assert counts("2:8") == (2, 8)
    for wrong in ("0", "8:2", "many", "2:", ":3", "-1", "1:2:3"):
        with pytest.raises(StartupError, match="--replicas is a number, or least:most"):
            counts(wrong)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--replicas", "2"], "--replicas is of --engine ray"),
        (["--engine", "ray", "--workers", "2"], "--engine ray has --replicas"),
        (["--engine", "kubernetes"], "--engine is local or ray, not kubernetes"),
    ],
)
def test_flags_that_do_not_fit_are_refused(elbod: Elbod, flags: list[str], said: str) -> None:
    done = elbod("serve", *flags)
    assert done.returncode == 2
    assert said in done.stderr


def test_open_ports_of_replicas_want_keys(elbod: Elbod) -> None:
    pytest.importorskip("ray", reason="needs Ray: make install-ray")
    done = elbod("serve", "--engine", "ray", RAY_SERVE_ENABLE_HA_PROXY="1")
    assert done.returncode == 1
    assert "opens a port of every replica on every interface: give --keys-file" in done.stderr


class RayServer:
    """`elbod serve --engine ray` with two replicas on a cluster of its own, of two cores."""

    def __init__(self, head: Node, store: str, folder: Path) -> None:
        self.head = head
        self.errors = folder / "errors"
        command = [
            ELBOD,
            "serve",
            "--engine",
            "ray",
            "--replicas",
            "2",
            "--store",
            store,
            "--model",
            "levels",
            "--port",
            "0",
        ]
        with (folder / "out").open("w") as out, self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, env=os.environ | head.variables, stdout=out, stderr=errors)
        wait_for(lambda: " on http" in (folder / "out").read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.errors.read_text()
        self.url = (folder / "out").read_text().split()[-1]

    def replicas(self) -> list[int]:
        return self.head.processes("ray::ServeReplica:elbod")


@pytest.fixture(scope="module")
def ray_server(served_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    pytest.importorskip("ray", reason="needs Ray: make install-ray")
    folder = tmp_path_factory.mktemp("ray-server")
    head = Node(folder, None, {}, cores=2)
    server = RayServer(head, served_store.objects.url, folder)
    yield server
    server.process.kill()
    server.process.wait(30)
    head.kill(signal.SIGKILL)


@pytest.mark.slow
def test_replicas_answer_with_the_bytes_of_one_machine(ray_server: RayServer, server: Server) -> None:
    body = {"model": "levels", "num_samples": 30, "seed": 12}
    headers = {"Accept": "application/x-safetensors"}
    ours, theirs = (
        httpx.post(f"{url}/sample", json=body, headers=headers, timeout=60) for url in (ray_server.url, server.url)
    )
    assert ours.status_code == theirs.status_code == 200
    assert ours.content == theirs.content
    assert httpx.get(f"{ray_server.url}/readyz").json()["ready"] is True


@pytest.mark.slow
def test_a_replica_killed_under_load_costs_no_row_and_is_replaced(
    ray_server: RayServer, server: Server, levels_rows: Any
) -> None:
    with Client(server.url) as client:
        expected = client.elbo(levels_rows, model="levels", seed=3).elbo.tobytes()
    killed = ray_server.replicas()[0]

    def score(number: int) -> bytes:
        if number == 20:
            os.kill(killed, signal.SIGKILL)
        with Client(ray_server.url) as client:
            return client.elbo(levels_rows, model="levels", seed=3).elbo.tobytes()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(score, range(80)))

    assert answers == [expected] * 80
    wait_for(lambda: len(ray_server.replicas()) == 2 and killed not in ray_server.replicas())


@pytest.mark.slow
def test_metrics_are_of_all_replicas(ray_server: RayServer) -> None:
    def families() -> dict[str, Any]:
        text = httpx.get(f"{ray_server.url}/metrics", timeout=30).raise_for_status().text
        return {family.name: family for family in text_string_to_metric_families(text)}

    def rows() -> float:
        return sum(sample.value for sample in families()["elbod_rows"].samples if sample.labels == {"verb": "encode"})

    before = rows()
    x = [[[0] * 8] * 8] * 5
    for _ in range(10):
        httpx.post(f"{ray_server.url}/encode", json={"x": x, "model": "levels"}, timeout=60).raise_for_status()
    wait_for(lambda: rows() == before + 50)
    # One was killed before: what it held counts for a while, and who came in its place begins with a model to load.
    wait_for(lambda: [sample.value for sample in families()["elbod_workers"].samples] == [2])
    wait_for(lambda: len(families()["elbod_resident_memory_bytes"].samples) == 2)


@pytest.mark.slow
def test_a_cluster_that_serves_is_left_alone(ray_server: RayServer, elbod: Elbod) -> None:
    done = elbod("serve", "--engine", "ray", "--port", "0", **ray_server.head.variables)
    assert done.returncode == 1
    assert "Ray Serve runs on this cluster already" in done.stderr
    assert httpx.get(f"{ray_server.url}/readyz", timeout=30).json()["ready"] is True


@pytest.mark.slow
def test_sigterm_drains_and_ends(ray_server: RayServer) -> None:
    ray_server.process.send_signal(signal.SIGTERM)
    assert ray_server.process.wait(60) == 0
    assert ray_server.replicas() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{ray_server.url}/readyz")
