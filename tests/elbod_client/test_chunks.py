"""Calls of many requests: invisible in what comes back."""

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from elbod_client import (
    AsyncClient,
    BodyTooLarge,
    Client,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    FingerprintWarning,
    Forbidden,
    InvalidInput,
    Posterior,
    Samples,
    Scores,
    ServerError,
)
from elbod_store import ModelStore
from tests.elbod_client.scripted import ORIGIN, SAFETENSORS, Reply, answering, safetensors
from tests.support import HANG, LEVELS, Server, publish, wait_for


def assert_same(whole: Any, parts: Any) -> None:
    """Every array to the last byte, and everything else."""
    for field in (field for field in fields(whole) if not field.name.startswith("_")):
        ours, theirs = getattr(parts, field.name), getattr(whole, field.name)
        if field.name == "parameters":
            assert ours.keys() == theirs.keys()
            for name in theirs:
                assert ours[name].tobytes() == theirs[name].tobytes(), name
        elif isinstance(theirs, np.ndarray):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), field.name
            assert ours.tobytes() == theirs.tobytes(), field.name
            assert not ours.flags.writeable
        elif field.name == "summary":
            assert ours.n == theirs.n
            for name in ("mean", "standard_error", "monte_carlo_standard_error"):
                assert getattr(ours, name) == (
                    None if getattr(theirs, name) is None else pytest.approx(getattr(theirs, name))
                )
        else:
            assert ours == theirs, field.name


ROWS_OF_SIX = np.arange(12.0).reshape(2, 6).repeat(20, 0)
BOUNDS: Any = {"num_samples": 4, "num_importance_samples": 30, "include": ["reconstruction_map"]}
CALLS: dict[str, Callable[[Client, Any], Any]] = {
    "sample": lambda client, x: client.sample(40, seed=3, first_index=5),
    "sample of rows": lambda client, x: client.sample(x=x, seed=3, output="mean"),
    "sample of labels": lambda client, x: client.sample(label=np.arange(40) % 3, seed=3, model="labels"),
    "encode": lambda client, x: client.encode(x, seed=3, num_samples=2),
    "encode without KL": lambda client, x: client.encode(x, seed=3, model="vamp"),
    "encode with one scale": lambda client, x: client.encode(ROWS_OF_SIX, model="linear", seed=1),
    "encode labels": lambda client, x: client.encode(x, label=np.arange(40) % 3, seed=3, model="labels"),
    "elbo": lambda client, x: client.elbo(x, seed=3, **BOUNDS),
    "elbo of one draw": lambda client, x: client.elbo(x, seed=3),
    "elbo to a target": lambda client, x: client.elbo(x, seed=3, target_standard_error=0.5),
    "elbo given labels": lambda client, x: client.elbo(x, label=np.arange(40) % 3, seed=3, model="labels"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("chunk_rows", [1, 7, 39])
def test_many_requests_give_the_bytes_of_one(client: Client, levels_rows: Any, name: str, chunk_rows: int) -> None:
    call = CALLS[name]
    assert_same(call(client, levels_rows), call(client.with_options(chunk_rows=chunk_rows), levels_rows))


def test_a_drawn_seed_is_one_for_all_requests(client: Client) -> None:
    many = client.with_options(chunk_rows=3).sample(10)
    assert client.sample(10, seed=many.seed).x.tobytes() == many.x.tobytes()


def test_async_gives_the_same_bytes(client: Client, server: Server, levels_rows: Any) -> None:
    async def ask() -> tuple[Samples, Posterior, Scores]:
        async with AsyncClient(server.url, chunk_rows=7) as ours:
            return await asyncio.gather(
                ours.sample(40, seed=3),
                ours.encode(levels_rows, seed=3, num_samples=2),
                ours.elbo(levels_rows, seed=3, num_samples=4),
            )

    samples, posterior, scores = asyncio.run(ask())
    assert_same(client.sample(40, seed=3), samples)
    assert_same(client.encode(levels_rows, seed=3, num_samples=2), posterior)
    assert_same(client.elbo(levels_rows, seed=3, num_samples=4), scores)


@pytest.mark.parametrize("sizes", [[40], [1, 2, 3, 34], [20, 20]])
def test_a_stream_of_batches_is_the_whole_in_pieces(client: Client, levels_rows: Any, sizes: list[int]) -> None:
    batches = np.split(levels_rows, np.cumsum(sizes)[:-1])
    whole = client.elbo(levels_rows, seed=2, num_samples=4, first_index=9)
    parts = list(
        client.with_options(chunk_rows=16).stream_elbo(
            iter(batches), seed=2, num_samples=4, first_index=9, progress=False
        )
    )
    assert [len(part.elbo) for part in parts] == sizes
    assert np.concatenate([part.elbo for part in parts]).tobytes() == whole.elbo.tobytes()
    encoded = list(client.stream_encode(batches, seed=2))
    assert np.concatenate([part.mean for part in encoded]).tobytes() == client.encode(levels_rows).mean.tobytes()
    sampled = list(client.with_options(chunk_rows=16).stream_sample(40, seed=2))
    assert [len(part.x) for part in sampled] == [16, 16, 8]
    assert np.concatenate([part.x for part in sampled]).tobytes() == client.sample(40, seed=2).x.tobytes()


def test_an_async_stream_takes_batches_that_come_asynchronously(
    server: Server, client: Client, levels_rows: Any
) -> None:
    async def batches() -> Any:
        for batch in np.split(levels_rows, 4):
            await asyncio.sleep(0)
            yield batch

    async def ask() -> list[Scores]:
        async with AsyncClient(server.url) as ours:
            return [scores async for scores in ours.stream_elbo(batches(), seed=2)]

    found = np.concatenate([scores.elbo for scores in asyncio.run(ask())])
    assert found.tobytes() == client.elbo(levels_rows, seed=2).elbo.tobytes()


def test_a_stream_takes_no_more_batches_than_are_under_way(client: Client, levels_rows: Any) -> None:
    taken = 0

    def batches() -> Iterator[Any]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield levels_rows[:2]

    results = client.with_options(concurrency=3).stream_elbo(batches(), seed=1)
    for results_taken in range(1, 20):
        next(results)
        assert taken <= results_taken + 3
    results.close()  # type: ignore[attr-defined]


def test_a_bad_row_is_named_as_it_is_in_the_whole(client: Client, levels_rows: Any) -> None:
    rows = levels_rows.copy()
    rows[33, 2, 5] = 99
    small = client.with_options(chunk_rows=10)
    with pytest.raises(InvalidInput, match=r"x\[33\] has value 99") as refused:
        small.elbo(rows)
    assert refused.value.problem is not None
    assert refused.value.problem["errors"][0]["pointer"] == "/x/33/2/5"
    with pytest.raises(InvalidInput, match=r"x\[33\] has value 99"):
        list(client.stream_elbo(np.split(rows, 4)))


def recorded(asked: Any) -> dict[str, Any]:
    header = json.loads(asked.body[8 : 8 + int.from_bytes(asked.body[:8], "little")])
    request: dict[str, Any] = json.loads(header["__metadata__"]["request"])
    return request


def samples_reply(**origin: Any) -> Reply:
    body = safetensors(ORIGIN | origin, {"x": ("U8", [1, 1], b"\x01"), "z": ("F32", [1, 1], bytes(4))})
    return Reply(body=body, content_type=SAFETENSORS)


def test_all_requests_after_the_first_name_the_version_that_it_found() -> None:
    with answering(samples_reply()) as server, Client(server.url, model="m@live", chunk_rows=1) as client:
        client.sample(5, seed=1)
    requests = [recorded(asked) for asked in server.asked]
    assert requests[0]["model"] == "m@live"
    assert [request["model"] for request in requests[1:]] == ["m@3"] * 4
    assert sorted(request["first_index"] for request in requests) == [0, 1, 2, 3, 4]
    assert {request["num_samples"] for request in requests} == {1}


def test_parts_of_different_fingerprints_are_warned_about_and_not_called_reproducible() -> None:
    replies = [samples_reply(), samples_reply(fingerprint="g")]
    with (
        answering(*replies) as server,
        Client(server.url, chunk_rows=1) as client,
        pytest.warns(FingerprintWarning, match="f and g"),
    ):
        samples = client.sample(2, seed=1)
    assert not samples.reproducible


def test_requests_are_under_way_together() -> None:
    """A server that answers nobody before three ask at once, but for the first."""
    barrier, first = threading.Barrier(3, timeout=HANG), threading.Event()

    def handle(request: httpx.Request) -> httpx.Response:
        if first.is_set():
            barrier.wait()
        first.set()
        reply = samples_reply()
        return httpx.Response(200, content=reply.body, headers={"content-type": reply.content_type})

    with httpx.Client(transport=httpx.MockTransport(handle)) as http:
        assert len(Client("http://x", chunk_rows=1, concurrency=3, http_client=http).sample(7, seed=1).x) == 7


def test_what_is_too_large_for_the_server_is_sent_in_halves(
    served_store: ModelStore, start_server: Callable[..., Server], levels_rows: Any
) -> None:
    server = start_server(served_store.objects.url, "--model", "levels", ELBOD_MAX_BODY_BYTES="1500")
    with Client(server.url) as client:
        assert len(client.elbo(levels_rows, seed=1).elbo) == 40
        with pytest.raises(BodyTooLarge, match="split the request"):
            client.elbo(np.zeros((1, 64, 64)))


def test_one_request_that_takes_too_long_is_not_cut_up(client: Client, levels_rows: Any) -> None:
    with pytest.raises(DeadlineExceeded):
        client.with_options(timeout=0.01).elbo(levels_rows, num_samples=1000)


def test_the_first_error_ends_the_call_and_what_waits_is_not_sent() -> None:
    replies = [samples_reply(), Reply.problem(500, "a bug")]
    with (
        answering(*replies) as server,
        Client(server.url, chunk_rows=1, concurrency=2) as client,
        pytest.raises(ServerError, match="a bug"),
    ):
        client.sample(100, seed=1)
    assert len(server.asked) <= 4


def busy_seconds(server: Server) -> float:
    seconds: float = httpx.get(f"{server.url}/healthz").json()["busy_seconds"]
    return seconds


def test_a_call_that_is_cancelled_leaves_no_request(server: Server, levels_rows: Any) -> None:
    async def ask() -> None:
        async with AsyncClient(server.url, chunk_rows=1) as client:
            call = asyncio.create_task(client.elbo(levels_rows, num_samples=1000, num_importance_samples=10_000))
            await asyncio.to_thread(wait_for, lambda: busy_seconds(server) > 0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(ask())
    wait_for(lambda: busy_seconds(server) == 0)


def test_a_server_that_restarts_in_the_middle_costs_nothing(
    served_store: ModelStore, tmp_path: Path, client: Client, levels_rows: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    flags = ("--model", "levels", "--port", port)
    running = [Server(served_store.objects.url, tmp_path / "log-0", *flags)]

    def batches() -> Iterator[Any]:
        for i, batch in enumerate(np.split(levels_rows, 20)):
            if i == 10:
                running[0].stop(signal.SIGKILL)
                threading.Thread(
                    target=lambda: running.append(Server(served_store.objects.url, tmp_path / "log-1", *flags))
                ).start()
            yield batch

    try:
        with Client(running[0].url, max_retries=8) as ours:
            parts = list(ours.stream_elbo(batches(), seed=2))
        assert [len(part.elbo) for part in parts] == [2] * 20
        found = np.concatenate([part.elbo for part in parts])
        assert found.tobytes() == client.elbo(levels_rows, seed=2).elbo.tobytes()
    finally:
        wait_for(lambda: len(running) == 2)
        for one in running:
            one.stop(signal.SIGKILL)


def test_aliases_are_moved_and_moved_back(tmp_path: Path, start_server: Callable[..., Server], client: Client) -> None:
    store = ModelStore.open(tmp_path / "store")
    for seed in (0, 1):
        publish(store, "mine", LEVELS, seed)
    server = start_server(tmp_path / "store", "--model", "mine", "--admin")
    with Client(server.url) as ours:
        ours.promote("mine", "live", 1, why="first")
        move = ours.promote("mine", "live", np.int64(2), expected=1, why="better")
        assert (move.name, move.alias, move.version, move.entry, move.why) == ("mine", "live", 2, 2, "better")
        with pytest.raises(Conflict, match="names version 2"):
            ours.promote("mine", "live", 1, expected=1, why="late")
        assert ours.rollback("mine", "live", why="worse").version == 1
    with pytest.raises(Forbidden, match="--admin"):
        client.promote("levels", "live", 1, why="no")


def test_a_move_whose_fate_is_unknown_is_not_sent_twice() -> None:
    with (
        answering(Reply(status=0)) as server,
        Client(server.url, max_retries=3) as client,
        pytest.raises(ConnectionFailed, match="broke"),
    ):
        client.promote("m", "live", 1, why="no")
    assert len(server.asked) == 1


def test_a_bar_counts_the_rows(client: Client, levels_rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    client.with_options(chunk_rows=10).elbo(levels_rows, progress=True)
    shown = capsys.readouterr().err
    assert "elbo" in shown
    assert "40.0/40.0" in shown


def test_other_options_share_the_connections_and_leave_the_first_ones(server: Server) -> None:
    with Client(server.url, model="levels") as client:
        other = client.with_options(model="bits", timeout=None, max_retries=0)
        assert other.sample(2).x.shape == (2, 3, 4)
        other.close()
        assert client.sample(2).x.shape == (2, 8, 8)
        assert other.with_options(model=None).sample(1).model.name == "levels"
        for bad in ({"chunk_rows": 0}, {"concurrency": 0}, {"timeout": -1}, {"max_retries": -1}):
            with pytest.raises(ValueError, match=next(iter(bad))):
                client.with_options(**bad)  # type: ignore[arg-type]
