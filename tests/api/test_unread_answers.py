"""Callers who do not read their answers: bounded together, cut after a while, and nobody else is harmed."""

import json
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from elbod.generators.base import Blueprint
from elbod_store import ModelStore
from tests.support import Server, publish, wait_for

WIDE = Blueprint(
    family="vae",
    spec={"latent_dim": 2, "hidden": [8]},
    likelihood="discretized_logistic",
    event_shape=(64, 64),
    levels=17,
)
# Some 18 MB of JSON.
LARGE = json.dumps({"num_samples": 1500, "seed": 1, "output": "mean", "model": "wide"}).encode()
CALLERS = 43


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore.open(tmp_path_factory.mktemp("wide") / "store")
    publish(store, "wide", WIDE)
    return store


def ask(server: Server, body: bytes = LARGE, headers: str = "") -> socket.socket:
    """A caller with a small window who has asked and reads nothing."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((host, int(port)))
    fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}"
    connection.sendall(f"POST /sample HTTP/1.1\r\n{fields}\r\n".encode() + body)
    return connection


def read_to_end(connection: socket.socket, size: int = 65536) -> Iterator[bytes]:
    try:
        while chunk := connection.recv(size):
            yield chunk
    except ConnectionError:
        return


def memory(server: Server) -> float:
    """MB of the server and its worker."""
    pids = [server.process.pid]
    for pid in pids:
        pids += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize() / 1e6


def open_connections(server: Server) -> int:
    """Of the worker, by what the kernel says."""
    port = f":{int(server.url.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[1].endswith(port) and fields[3] == "01" for fields in lines)


def test_answers_that_nobody_reads_are_bounded_and_cut(store: ModelStore, start_server: Callable[..., Server]) -> None:
    server = start_server(store.objects.url, ELBOD_REQUEST_TIMEOUT="20", ELBOD_MAX_QUEUE_BYTES="150000000")
    small = {"num_samples": 1, "seed": 1}
    expected = httpx.post(f"{server.url}/sample", json=small).content
    before, most = memory(server), 0.0
    with ExitStack() as stack:
        for _ in range(CALLERS):
            stack.enter_context(ask(server))
        refused = 0

        def settled() -> bool:
            nonlocal most, refused
            most = max(most, memory(server))
            log = [json.loads(line) for line in server.log.read_text().splitlines()]
            refused = sum(line.get("status") == 429 for line in log)
            return refused >= CALLERS - 5

        wait_for(settled)
        # Others hear when to come back, and the server is alive.
        answer = httpx.post(f"{server.url}/sample", content=LARGE, headers={"Content-Type": "application/json"})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert httpx.post(f"{server.url}/sample", json=small).content == expected
        wait_for(lambda: open_connections(server) == 0)
    assert most < before + 600
    # What they held is free again.
    assert httpx.post(f"{server.url}/sample", content=LARGE, headers={"Content-Type": "application/json"}).is_success
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def test_a_slow_reader_gets_every_byte_however_long_it_takes(
    store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(store.objects.url, ELBOD_REQUEST_TIMEOUT="2")
    body = json.dumps({"num_samples": 500, "seed": 1, "output": "mean"}).encode()
    expected = httpx.post(f"{server.url}/sample", content=body, headers={"Content-Type": "application/json"}).content
    pause, received = threading.Event(), 0
    with ask(server, body, "Connection: close\r\n") as connection:
        for chunk in read_to_end(connection, 4096):
            received += len(chunk)
            # For six seconds a few kilobytes at a time, less than a buffer of the kernel holds.
            if received < 500_000:
                pause.wait(0.05)
    assert received > len(expected)


def test_a_stalled_caller_does_not_hold_up_a_drain_for_ever(
    store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(store.objects.url, ELBOD_DRAIN_TIMEOUT="3")
    with ask(server):
        computed = 'elbod_rows_total{verb="sample"} 1500.0'
        wait_for(lambda: computed in httpx.get(f"{server.url}/metrics").text)
        assert server.stop() == 0
