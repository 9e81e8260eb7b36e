"""A store that accepts every connection and never answers: the server lives, says so, and ends when it is told to."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import LEVELS, Server, publish, wait_for

HEALTH = ("/healthz", "/readyz", "/version", "/")


@contextmanager
def silent_store() -> Iterator[dict[str, str]]:
    """Variables with which an S3 URL leads to a socket that takes every connection and says nothing."""
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connections.append(listener.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
            }
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Iterator[Server]:
    with silent_store() as variables:
        yield start_server("s3://bucket/store", "--model", "levels", ELBOD_DRAIN_TIMEOUT="3", **variables)


def call(server: Server, method: str, path: str, body: object = None, seconds: str = "3") -> int:
    headers = {"Request-Timeout": seconds}
    return httpx.request(method, server.url + path, json=body, headers=headers, timeout=60).status_code


def test_health_is_told_and_callers_hear_in_time_while_the_store_is_silent(server: Server) -> None:
    with ThreadPoolExecutor(120) as pool:
        calls = [pool.submit(call, server, "POST", "/sample", {"model": "levels"}) for _ in range(45)]
        calls += [pool.submit(call, server, "POST", "/sample", {"model": f"unknown{i}"}) for i in range(30)]
        calls += [pool.submit(call, server, "GET", "/models/levels") for _ in range(45)]
        with httpx.Client(base_url=server.url, timeout=10) as http:
            asked = 0
            while not all(one.done() for one in calls):
                statuses = [http.get(path).status_code for path in HEALTH]
                assert statuses == [200, 503, 200, 200]
                asked += 1
        assert asked > 10
        assert {one.result() for one in calls} <= {503, 504}


def test_a_store_that_does_not_answer_is_named(server: Server) -> None:
    def problems() -> list[str]:
        found: list[str] = httpx.get(f"{server.url}/readyz").json()["problems"]
        return found

    wait_for(lambda: any("has not answered for" in problem for problem in problems()))


def test_a_server_whose_loads_hang_ends_within_its_drain_timeout(server: Server) -> None:
    with ThreadPoolExecutor(50) as pool:
        calls = [pool.submit(call, server, "POST", "/sample", {"model": "levels"}, "50") for _ in range(25)]
        calls += [pool.submit(call, server, "GET", "/models/levels", None, "50") for _ in range(25)]
        # They are all waiting once a later one has been answered.
        assert call(server, "POST", "/sample", {"model": "levels"}, "1") in (503, 504)
        assert server.stop(signal.SIGTERM) == 0
        # At the end of the drain, not of the connections to the store or of their own fifty seconds.
        for one in calls:
            error = one.exception()
            assert isinstance(error, httpx.TransportError) if error else one.result() == 503


def test_a_store_that_answers_again_is_served_from(
    tmp_path: Path, start_server: Callable[..., Server], s3_url: str
) -> None:
    publish(ModelStore.open(s3_url), "levels", LEVELS)
    server = start_server(s3_url)
    assert call(server, "POST", "/sample", {"model": "levels"}, "30") == 200
    assert call(server, "POST", "/sample", {"model": "levels@7"}, "30") == 404
