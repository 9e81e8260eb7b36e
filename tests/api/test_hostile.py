"""Bad networks, impatient and hostile callers: refused or survived, and nobody else is harmed."""

import concurrent.futures
import itertools
import json
import os
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import HANG, Server

X = [[[0] * 8] * 8]
ONE_ROW = json.dumps({"x": X, "seed": 1}).encode()
TINY_REQUESTS = int(os.environ.get("ELBOD_TINY_REQUESTS", "5000"))
OVERLOAD_SECONDS = float(os.environ.get("ELBOD_OVERLOAD_SECONDS", "8"))


@pytest.fixture
def start(served_store: ModelStore, start_server: Callable[..., Server]) -> Callable[..., Server]:
    def start(**variables: str) -> Server:
        return start_server(served_store.objects.url, "--model", "levels", **variables)

    return start


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(length: int, path: str = "/elbo") -> bytes:
    fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {length}"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode()


def answers(server: Server) -> bool:
    return httpx.post(f"{server.url}/elbo", content=ONE_ROW, headers={"Content-Type": "application/json"}).is_success


def test_a_body_that_trickles_in_is_given_up_on(start: Callable[..., Server]) -> None:
    server = start(ELBOD_REQUEST_TIMEOUT="1")
    with connect(server) as connection:
        connection.sendall(head(len(ONE_ROW)))
        began = time.monotonic()
        for byte in itertools.cycle(b" "):
            connection.settimeout(0.2)
            try:
                connection.sendall(bytes([byte]))
                answer = connection.recv(4096)
                break
            except TimeoutError:
                assert time.monotonic() - began < HANG
        assert answer.startswith(b"HTTP/1.1 408 ")
    assert answers(server)


def test_a_body_longer_than_it_said_ends_where_it_said(start: Callable[..., Server]) -> None:
    """The rest is read as the next request, which it is not."""
    server = start()
    with connect(server) as connection:
        connection.sendall(head(len(ONE_ROW)) + ONE_ROW + b"and more")
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))
    assert b"HTTP/1.1 400 " in received
    assert answers(server)


def test_a_caller_who_closes_one_half_harms_nobody(start: Callable[..., Server]) -> None:
    server = start()
    with connect(server) as connection:
        connection.sendall(head(len(ONE_ROW)) + ONE_ROW)
        connection.shutdown(socket.SHUT_WR)
        received = connection.recv(65536)
        assert received == b"" or received.startswith(b"HTTP/1.1 200 ")
    assert answers(server)
    assert "Traceback" not in server.log.read_text()


def test_a_great_many_tiny_requests_are_answered_one_by_one(start: Callable[..., Server]) -> None:
    server, callers = start(), 8

    def ask(_: int) -> set[int]:
        with httpx.Client(base_url=server.url, timeout=30) as http:
            return {http.post("/elbo", json={}).status_code for _ in range(TINY_REQUESTS // callers)}

    before = memory(server)
    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        assert set.union(*pool.map(ask, range(callers))) == {422}
    assert memory(server) < before + 50
    assert answers(server)


def memory(server: Server) -> float:
    """MB of the server and its workers."""
    pids = [server.process.pid]
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pids += [int(child) for child in children]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize() / 1e6


@pytest.mark.slow
def test_memory_is_flat_under_overload_and_the_refused_hear_when_to_come_back(start: Callable[..., Server]) -> None:
    """Forty callers who never wait, on a queue for eight of them."""
    server = start(ELBOD_MAX_QUEUE_ROWS="8000")
    body: dict[str, Any] = {"x": X * 100, "num_samples": 10, "seed": 1}
    content = json.dumps(body).encode()

    def hammer(until: float) -> list[int]:
        statuses = []
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while time.monotonic() < until:
                response = http.post("/elbo", content=content, headers={"Content-Type": "application/json"})
                statuses.append(response.status_code)
                if response.status_code == 429:
                    assert 1 <= int(response.headers["retry-after"]) <= 60
        return statuses

    def overload(seconds: float) -> list[int]:
        until = time.monotonic() + seconds
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            return [status for each in pool.map(hammer, [until] * 40) for status in each]

    overload(OVERLOAD_SECONDS / 4)
    before = memory(server)
    statuses = overload(OVERLOAD_SECONDS)
    assert set(statuses) == {200, 429}
    assert memory(server) < before + 30
    assert answers(server)


def test_a_model_too_large_for_the_limit_is_not_ready_and_says_why(start: Callable[..., Server]) -> None:
    server = start(ELBOD_MAX_LOADED_BYTES="1000")
    with httpx.Client(base_url=server.url) as http:
        ready = http.get("/readyz")
        assert ready.status_code == 503
        assert "max_loaded_bytes is 1000" in ready.json()["problems"][0]
        assert http.post("/sample", json={}).status_code == 500
        assert http.get("/healthz").status_code == 200
