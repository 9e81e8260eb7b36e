"""Callers who leave, bodies that wait, bugs: who hears what, and what the log says."""

import json
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from elbod_store import ModelStore
from tests.support import HANG, Server, wait_for

X = [[[0] * 8] * 8]


@pytest.fixture
def own(served_store: ModelStore, start_server: Callable[..., Server]) -> Server:
    return start_server(served_store.objects.url, "--model", "levels", ELBOD_MAX_QUEUE_BYTES="4000000")


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def post(body: bytes, length: int | None = None, path: str = "/elbo") -> bytes:
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


def statuses(log: Path) -> list[int]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["status"] for line in lines if line["logger"] == "elbod.access" and line["method"] == "POST"]


def test_a_caller_who_leaves_is_logged_as_499_and_costs_nothing_more(own: Server) -> None:
    rows = np.zeros((1000, 8, 8), int).tolist()
    with connect(own) as connection:
        connection.sendall(post(json.dumps({"x": rows, "num_samples": 1000}).encode()))
        wait_for(lambda: httpx.get(f"{own.url}/healthz").json()["busy_seconds"] > 0)
    wait_for(lambda: statuses(own.log) == [499])
    # A million row-draws would take half a minute: they were dropped.
    assert httpx.post(f"{own.url}/elbo", json={"x": X}, timeout=10).status_code == 200


def test_a_caller_who_leaves_before_the_body_is_there_is_no_error(own: Server) -> None:
    with connect(own) as connection:
        connection.sendall(post(b'{"x"', length=1000))
    wait_for(lambda: statuses(own.log) == [499])
    assert "Traceback" not in own.log.read_text()


def test_bodies_that_wait_are_bounded_together(own: Server) -> None:
    """Sixteen callers who send half of a megabyte and stop may not hold eight megabytes."""
    with ExitStack() as stack:
        waiting = []
        for _ in range(16):
            connection = stack.enter_context(connect(own))
            connection.sendall(post(b" " * 500_000, length=1_000_000))
            waiting.append(connection)
        refused = 0
        while refused < 8:
            answered, _, _ = select.select(waiting, [], [], HANG)
            assert answered, f"{refused} of sixteen were refused"
            for connection in answered:
                assert connection.recv(4096).startswith(b"HTTP/1.1 429 ")
                waiting.remove(connection)
                refused += 1
    wait_for(lambda: len(statuses(own.log)) == 16)
    assert httpx.post(f"{own.url}/elbo", json={"x": X}).status_code == 200


def test_long_json_does_not_hold_up_other_callers(
    served_store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(served_store.objects.url, "--model", "levels", ELBOD_MAX_ROWS="10")
    body = json.dumps({"x": np.ones((150_000, 8, 8), int).tolist()}, separators=(",", ":")).encode()
    answered = 0
    with connect(server) as long, httpx.Client(base_url=server.url) as http:
        message = post(body)
        long.sendall(message[:-1])
        http.get("/healthz")
        long.sendall(message[-1:])
        while not select.select([long], [], [], 0)[0]:
            http.get("/healthz")
            answered += 1
        assert long.recv(4096).startswith(b"HTTP/1.1 422 ")
    # Decoded on the loop, it would let in the first of them at most, and the second with its own answer.
    assert answered > 2


def test_json_has_a_limit_of_its_own(served_store: ModelStore, start_server: Callable[..., Server]) -> None:
    server = start_server(served_store.objects.url, ELBOD_MAX_JSON_BYTES="1000")
    response = httpx.post(f"{server.url}/elbo", json={"x": np.zeros((10, 8, 8), int).tolist()})
    assert response.status_code == 413
    assert "1000 bytes" in response.json()["detail"]


def test_a_bug_answers_with_an_id_that_finds_its_traceback() -> None:
    """The middleware around a route that raises, on a real server of its own."""
    import asyncio

    import uvicorn
    from fastapi import FastAPI

    from elbod.api.logs import RequestLog
    from elbod.api.server import bind

    app = FastAPI()
    app.add_middleware(RequestLog)

    @app.get("/bug")
    def bug() -> None:
        raise ZeroDivisionError("secret")

    async def ask() -> httpx.Response:
        listener = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/bug"
            response = await client.get(url, headers={"X-Request-Id": "trace-me"})
            # The connection is still good.
            assert (await client.get(url)).status_code == 500
        server.should_exit = True
        await serving
        return response

    response = asyncio.run(ask())
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "trace-me"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["instance"] == "urn:elbod:request:trace-me"
    assert "secret" not in response.text


@pytest.mark.parametrize(
    "x",
    [
        {"dtype": [], "shape": [1], "data": ""},
        {"dtype": {}, "shape": [1], "data": ""},
        {"dtype": "uint8", "shape": [0, 2**40, 2**40], "data": ""},
    ],
)
def test_odd_array_descriptions_are_the_callers_fault(http: httpx.Client, x: dict[str, Any]) -> None:
    assert http.post("/elbo", json={"x": x}).status_code == 422


def test_values_are_named_in_full(http: httpx.Client) -> None:
    x = np.zeros((1, 8, 8))
    x[0, 0, 0] = 16.0000001
    detail = http.post("/elbo", json={"x": x.tolist()}).json()["detail"]
    assert "x[0] has value 16.0000001" in detail


def test_media_types_are_compared_without_case(http: httpx.Client) -> None:
    assert http.post("/elbo", json={"x": X}, headers={"Accept": "Application/JSON"}).status_code == 200
