"""Requests that are expensive to read, to refuse or to answer: nobody else waits for them."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from elbod.generators.base import Blueprint
from elbod_store import ModelStore
from tests.support import Server, publish

X = [[[0] * 8] * 8]
JSON = {"Content-Type": "application/json"}
# 32 MB of numbers, all of which are read before their shape is refused.
NUMBERS = b'{"x":[' + b"0," * 16_700_000 + b"0]}"
KEYS = b"{" + b",".join(b'"k%07d":1' % i for i in range(300_000)) + b"}"
PHOTOS = Blueprint(
    family="vae",
    spec={"latent_dim": 2, "hidden": [8]},
    likelihood="bernoulli",
    event_shape=(32, 32),
    levels=2,
    binarization="stochastic",
)


@pytest.fixture
def own(served_store: ModelStore, start_server: Callable[..., Server]) -> Server:
    return start_server(served_store.objects.url, "--model", "levels")


@pytest.fixture
def photos(tmp_path: Path, start_server: Callable[..., Server]) -> Server:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "photos", PHOTOS)
    return start_server(store.objects.url, ELBOD_MAX_QUEUE_ROWS="8000")


def leave(server: Server, body: bytes) -> None:
    """Send a request, and go."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = (
            f"POST /elbo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)


def answers_while_writing(server: Server, fields: dict[str, object]) -> int:
    """How many answers another caller got while a large answer of /sample was written."""
    found: list[tuple[float, httpx.Response]] = []
    others: list[float] = []
    with httpx.Client(base_url=server.url, timeout=120) as one, httpx.Client(base_url=server.url, timeout=120) as other:
        for client in (one, other):
            client.get("/version")
        thread = threading.Thread(target=lambda: found.append((time.monotonic(), one.post("/sample", json=fields))))
        thread.start()
        while thread.is_alive():
            assert other.get("/version").status_code == 200
            others.append(time.monotonic())
    asked, answer = found[0]
    assert answer.status_code == 200
    *before, writing = (float(phase.partition("=")[2]) / 1e3 for phase in answer.headers["server-timing"].split(","))
    begun = asked + sum(before)
    return sum(begun < at < begun + writing for at in others)


def test_a_body_of_many_keys_is_refused_and_holds_up_neither_others_nor_the_end(own: Server) -> None:
    for _ in range(4):
        leave(own, KEYS)
    response = httpx.post(f"{own.url}/elbo", content=KEYS, headers=JSON, timeout=60)
    assert response.status_code == 422
    assert "limit" in response.json()["detail"]
    rows = json.dumps({"x": X * 600}).encode()
    assert httpx.post(f"{own.url}/elbo", content=rows, headers=JSON, timeout=60).status_code == 200
    leave(own, KEYS)
    assert own.stop() == 0


def test_reading_ends_with_the_deadline_and_with_the_caller(own: Server) -> None:
    late = httpx.post(f"{own.url}/elbo", content=NUMBERS, headers=JSON | {"Request-Timeout": "0.01"}, timeout=60)
    assert late.status_code == 504
    for _ in range(6):
        leave(own, NUMBERS)
    rows = json.dumps({"x": X * 600}).encode()
    assert httpx.post(f"{own.url}/elbo", content=rows, headers=JSON, timeout=60).status_code == 200
    assert own.stop() == 0
    assert "Traceback" not in own.log.read_text()


def test_a_large_answer_is_written_while_others_are_answered(photos: Server) -> None:
    """Written on the event loop, it would let one in before and one after."""
    assert answers_while_writing(photos, {"num_samples": 8000, "output": "mean"}) > 3


def cpu_seconds(server: Server) -> float:
    """What the server and its worker have computed."""
    main = server.process.pid
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in (main, *children)]
    return sum(int(user) + int(system) for *_, user, system in (each[:13] for each in fields)) / os.sysconf(
        "SC_CLK_TCK"
    )


def test_bits_are_drawn_for_admitted_requests_alone(photos: Server) -> None:
    """Rows of a thousand pixels take the noise of as many numbers, which a refusal does not wait for."""
    x = np.zeros((8001, 32, 32), np.uint8)
    spent = {}
    with httpx.Client(base_url=photos.url, timeout=60) as http:
        for binarize in ("threshold", "stochastic", "threshold", "stochastic"):
            body = save_safetensors({"x": x}, metadata={"request": f'{{"binarize":"{binarize}"}}'})
            before = cpu_seconds(photos)
            for _ in range(5):
                response = http.post("/elbo", content=body, headers={"Content-Type": "application/x-safetensors"})
                assert response.status_code == 422
                assert "row-draws" in response.json()["detail"]
            spent[binarize] = cpu_seconds(photos) - before
    # The noise of one of the five takes longer.
    assert spent["stochastic"] < 3 * spent["threshold"] + 0.1, spent
