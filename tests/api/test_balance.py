"""Least connections: which worker accepts, and whose callers reconnect."""

import asyncio
import contextlib
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from elbod.api.balance import Balance, Loads
from elbod.api.protocol import Connection


def balances(*connections: int) -> list[Balance]:
    """Workers with so many connections in use each."""
    loads = Loads(len(connections))
    found = [Balance(loads, number) for number in range(len(connections))]
    for balance, count in zip(found, connections, strict=True):
        balance.join()
        for _ in range(count):
            balance.open()
    return found


def moved(balance: Balance) -> int:
    """How many of the next hundred callers are asked to reconnect."""
    return sum(balance.moves_one() for _ in range(100))


def test_a_worker_accepts_while_no_other_has_fewer_connections() -> None:
    first, second, third = balances(3, 2, 3)
    assert first.lighter().keys() == third.lighter().keys() == {1}
    assert not second.lighter()
    second.open()
    assert not first.lighter()
    first.close(in_use=True)
    assert second.lighter().keys() == {0}


def test_a_worker_with_one_connection_accepts_another_so_that_probes_reach_every_worker() -> None:
    first, second = balances(1, 0)
    assert not first.lighter()
    first.open()
    assert first.lighter().keys() == {1}
    assert not second.lighter()


def test_idle_connections_count_only_where_those_in_use_are_equal() -> None:
    first, second = balances(4, 4)
    first.use(-1)
    assert not first.lighter()
    assert second.lighter().keys() == {0}
    second.close(in_use=True)
    assert first.lighter().keys() == {1}
    assert not second.lighter()


def test_workers_that_start_drain_or_died_attract_no_connections() -> None:
    loads = Loads(4)
    alone, _, draining, dead = (Balance(loads, number) for number in range(4))
    for balance in (alone, draining, dead):
        balance.join()
    for _ in range(5):
        alone.open()
    draining.leave()
    draining.close(in_use=True)
    loads.clear(3)
    assert not alone.lighter()
    assert draining.lighter().keys() == {0}


def test_a_worker_that_does_not_take_what_is_left_to_it_is_skipped_until_its_load_changes() -> None:
    first, stuck, well = balances(3, 1, 0)
    lighter = first.lighter()
    well.open()
    first.skip(lighter)
    assert first.lighter().keys() == {2}
    first.skip(first.lighter())
    assert not first.lighter()
    stuck.open()
    assert first.lighter().keys() == {1}


@pytest.mark.parametrize(
    ("connections", "moving"), [((32, 0), 16), ((17, 16), 0), ((18, 16), 1), ((16, 0, 0, 0), 12), ((0, 9), 0)]
)
def test_callers_beyond_the_mean_reconnect_once_three_reviews_agree(connections: tuple[int, ...], moving: int) -> None:
    first, *_ = balances(*connections)
    for _ in range(2):
        first.review()
        assert moved(first) == 0
    first.review()
    assert moved(first) == moving
    # Those who moved are seen before any more are asked.
    first.review()
    assert moved(first) == 0


def test_a_surplus_of_a_moment_moves_nobody() -> None:
    first, second = balances(8, 0)
    first.review()
    first.review()
    for _ in range(8):
        second.open()
    first.review()
    assert moved(first) == 0


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers each request with five bytes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def answers(balance: Balance, requests: int) -> bytes:
    """What one connection receives for requests that it sends at once, and, unless it is closed, for one more."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(hello, log_config=None)
    config.load()

    def protocol() -> asyncio.Protocol:
        balance.open()
        return Connection(config, ServerState(), {}, loop, timeout=60, draining=lambda: False, balance=balance)

    async with await loop.create_server(protocol, "127.0.0.1") as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(request * requests)
        received = b""
        for _ in range(requests):
            received += await reader.readuntil(b"hello")
        writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        # A closed connection may be reset by what still comes.
        with contextlib.suppress(ConnectionError):
            received += await reader.read()
        writer.close()
    return received


@pytest.mark.parametrize(("requests", "answered"), [(1, 1), (2, 3), (5, 6)])
def test_a_caller_beyond_the_mean_is_asked_to_reconnect_unless_it_sends_requests_ahead(
    requests: int, answered: int
) -> None:
    first, _ = balances(4, 0)
    for _ in range(3):
        first.review()
    received = asyncio.run(answers(first, requests))
    assert received.count(b"HTTP/1.1 200") == answered
    assert received.count(b"connection: close") == 1
