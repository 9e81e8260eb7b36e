"""Connections are spread evenly over workers, whichever of them die, hang or come later."""

import http.client
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import Server, next_status, starts, wait_for, workers

REQUEST = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def start(served_store: ModelStore, start_server: Callable[..., Server]) -> Callable[[int], Server]:
    """Starts a server of so many workers."""
    return lambda count: start_server(served_store.objects.url, "--model", "levels", "--workers", str(count))


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def connections(server: Server) -> dict[int, int]:
    """How many connections each worker has accepted and not closed, by what the kernel says."""
    port = int(server.url.rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {line[9] for line in lines if int(line[1].rpartition(":")[2], 16) == port and line[3] == "01"}
    return {pid: len(established & inodes(pid)) for pid in workers(server.process.pid)}


def inodes(pid: int) -> set[str]:
    """The sockets of a process."""
    found = set()
    for path in (Path("/proc") / str(pid) / "fd").iterdir():
        try:
            found.add(str(path.readlink()).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    return found


def even(server: Server, count: int) -> bool:
    """Whether the workers have `count` connections, evenly."""
    found = connections(server).values()
    return sum(found) == count and max(found) - min(found) <= 1


def status_on(connection: socket.socket) -> int:
    connection.sendall(REQUEST)
    return next_status(connection)


def worker_of(server: Server, connection: socket.socket) -> int | None:
    """The worker that has accepted the connection."""
    port = f":{connection.getsockname()[1]:04X}"
    held = {
        line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[2].endswith(port)
    }
    return next((pid for pid in workers(server.process.pid) if inodes(pid) & held), None)


@contextmanager
def keep_asking(server: Server, callers: int) -> Iterator[None]:
    """Callers who ask all the time, and reconnect when they are told to or their worker dies."""
    stop, asking = threading.Event(), threading.Barrier(callers + 1)

    def ask() -> None:
        first = True
        while not stop.is_set():
            try:
                with httpx.Client(base_url=server.url, timeout=60) as client:
                    while not stop.is_set():
                        assert client.get("/version").status_code == 200
                        if first:
                            first = False
                            asking.wait(60)
                        stop.wait(0.01)
            except httpx.TransportError:
                continue

    with ThreadPoolExecutor(callers) as pool:
        futures = [pool.submit(ask) for _ in range(callers)]
        try:
            asking.wait(60)
            yield
        finally:
            stop.set()
        for future in futures:
            future.result(60)


@pytest.mark.parametrize("count", [2, 5])
def test_connections_opened_at_once_and_one_by_one_are_split_evenly(start: Callable[[int], Server], count: int) -> None:
    server = start(count)

    def are_even() -> bool:
        with ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(connect(server))
            wait_for(lambda: sum(connections(server).values()) == 40)
            found = [even(server, 40)]
            for total in range(41, 49):
                stack.enter_context(connect(server))
                wait_for(lambda total=total: sum(connections(server).values()) == total)  # type: ignore[misc]
                found.append(even(server, total))
        wait_for(lambda: sum(connections(server).values()) == 0)
        return all(found)

    # A busy machine may keep a worker from its turn for so long that the others skip it.
    assert any(are_even() for _ in range(3))


def test_a_lone_worker_accepts_all_connections(start: Callable[[int], Server]) -> None:
    server = start(1)
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(server))
        wait_for(lambda: even(server, 50))


def test_callers_spread_again_after_a_worker_was_killed(start: Callable[[int], Server]) -> None:
    server = start(2)
    with keep_asking(server, 12):
        # The last worker answers everybody until the other one is replaced.
        os.kill(min(workers(server.process.pid)), signal.SIGKILL)
        wait_for(lambda: starts(server) == 3)
        wait_for(lambda: even(server, 12))
    assert '"status":5' not in server.log.read_text()


def test_connections_do_not_wait_for_a_worker_that_hangs(start: Callable[[int], Server]) -> None:
    server = start(2)
    hanging, other = sorted(workers(server.process.pid))
    os.kill(hanging, signal.SIGSTOP)
    try:
        with ExitStack() as stack:
            for _ in range(10):
                connection = stack.enter_context(connect(server))
                assert status_on(connection) == 200
            assert connections(server)[other] == 10
    finally:
        os.kill(hanging, signal.SIGCONT)


def test_callers_move_to_a_worker_whose_own_callers_ask_nothing_more(start: Callable[[int], Server]) -> None:
    server = start(2)
    busy, _ = workers(server.process.pid)
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(server)) for _ in range(12)]
        wait_for(lambda: even(server, 12))
        assert [status_on(connection) for connection in opened] == [200] * 12
        asking = [connection for connection in opened if worker_of(server, connection) == busy]
        assert len(asking) == 6

        def ask_on() -> bool:
            for place, connection in enumerate(asking):
                try:
                    assert status_on(connection) == 200
                except (ConnectionError, http.client.BadStatusLine):
                    asking[place] = stack.enter_context(connect(server))
            return sum(worker_of(server, connection) == busy for connection in asking) == 3

        wait_for(ask_on)
