"""A drain takes as long as what was admitted, however much its callers go on asking."""

import concurrent.futures
import signal
import socket
import threading
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from elbod_client import Client, ConnectionFailed, NotReady
from elbod_store import ModelStore
from tests.support import Server, next_status, wait_for

WORK = {"x": np.zeros((300, 8, 8), int).tolist(), "num_samples": 200, "seed": 1}
SMALL = b'{"num_samples": 1}'
REQUEST = (
    b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(SMALL)
) + SMALL


@pytest.fixture
def server(served_store: ModelStore, start_server: Callable[..., Server]) -> Server:
    return start_server(served_store.objects.url, "--model", "levels")


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def ask_ahead(server: Server) -> bytes:
    """Keep two requests on their way until the server closes the connection; its answers."""
    received = b""
    with connect(server) as connection:
        try:
            connection.sendall(REQUEST * 2)
            while chunk := connection.recv(65536):
                received += chunk
                connection.sendall(REQUEST * chunk.count(b"HTTP/1.1 "))
        except ConnectionError:
            pass
    return received


def test_callers_who_keep_asking_do_not_prolong_a_drain(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ahead = [pool.submit(ask_ahead, server) for _ in range(3)]
        work = pool.submit(httpx.post, f"{server.url}/elbo", json=WORK, timeout=60)
        wait_for(lambda: httpx.get(f"{server.url}/healthz").json()["busy_seconds"] > 0)
        server.process.send_signal(signal.SIGTERM)
        # They end before the work does, and so does the process after it: nothing waits for a time to be up.
        answers = [caller.result(60) for caller in ahead]
        assert work.result(60).status_code == 200
        with server.process:
            assert server.process.wait(60) == 0
    log = server.log.read_text()
    assert "graceful shutdown exceeded" not in log
    assert '"level":"error"' not in log
    for answer in answers:
        # Those that were on their way when the drain began; the last one closes the connection.
        assert answer.count(b"HTTP/1.1 503 ") <= 4
        assert b"connection: close" in answer[answer.rindex(b"HTTP/1.1 ") :].lower()


def test_callers_who_ask_nothing_more_are_left_at_once(server: Server) -> None:
    with connect(server) as idle, connect(server) as fresh, concurrent.futures.ThreadPoolExecutor(1) as pool:
        idle.sendall(REQUEST)
        assert next_status(idle) == 200
        work = pool.submit(httpx.post, f"{server.url}/elbo", json=WORK, timeout=60)
        wait_for(lambda: httpx.get(f"{server.url}/healthz").json()["busy_seconds"] > 0)
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(65536) == b""
        assert fresh.recv(65536) == b""
        # The answer to what was admitted closes its connection, too.
        assert work.result(60).headers["connection"] == "close"
    with server.process:
        assert server.process.wait(60) == 0


def test_callers_who_try_again_lose_nothing_while_one_of_two_servers_drains(
    served_store: ModelStore, start_server: Callable[..., Server]
) -> None:
    first, second = (start_server(served_store.objects.url, "--model", "levels") for _ in range(2))
    urls, stop, asking = [first.url, second.url], threading.Event(), threading.Barrier(4)

    def keep_asking() -> int:
        count = 0
        while not stop.is_set():
            with Client(urls[0], model="levels", max_retries=0) as one, Client(urls[1], model="levels") as other:
                try:
                    while not stop.is_set():
                        one.sample(1, seed=3)
                        count += 1
                        if count == 1:
                            asking.wait(60)
                except (NotReady, ConnectionFailed):
                    # Refused or hung up on, never half an answer; the other server has it.
                    other.sample(1, seed=3)
                    stop.wait(0.05)
        return count

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(keep_asking) for _ in range(3)]
        asking.wait(60)
        assert first.stop() == 0
        stop.set()
        assert all(caller.result(60) > 0 for caller in callers)
    assert '"level":"error"' not in first.log.read_text()
