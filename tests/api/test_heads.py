"""Heads without end, framing without end, requests that never come: refused or closed, and nobody else waits."""

import itertools
import json
import select
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import HANG, Server, next_status, wait_for

SAMPLE = b'{"num_samples": 2, "seed": 1}'
MEGABYTES = 20


@pytest.fixture
def impatient(served_store: ModelStore, start_server: Callable[..., Server]) -> Server:
    return start_server(served_store.objects.url, "--model", "levels", ELBOD_REQUEST_TIMEOUT="1")


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def pour(connection: socket.socket, pieces: Iterable[bytes]) -> int:
    """Bytes that were taken until the server answered or hung up."""
    taken = 0
    for piece in pieces:
        while piece:
            readable, writable, _ = select.select([connection], [connection], [], 60)
            assert readable or writable
            if readable:
                return taken
            sent = connection.send(piece)
            taken, piece = taken + sent, piece[sent:]
    return taken


def answers(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionError:
        pass
    return received


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, value in pairs}, body


def check_refused(server: Server, answer: bytes, status: int, slug: str) -> None:
    code, headers, body = split(answer)
    problem = json.loads(body)
    assert (code, problem["status"]) == (status, status)
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:elbod:problem:{slug}"
    assert problem["instance"].endswith(headers["x-request-id"])
    wait_for(lambda: status in logged(server.log, headers["x-request-id"]))


def logged(log: Path, request_id: str) -> list[int]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["status"] for line in lines if line.get("request_id") == request_id and "status" in line]


def is_well(server: Server) -> bool:
    return httpx.post(f"{server.url}/sample", json={"num_samples": 2}).status_code == 200


FILL = b"a" * 65_000


@pytest.mark.parametrize(
    ("begin", "more", "status", "slug"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ", FILL, 431, "headers-too-large"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"X-Long: " + FILL[:500] + b"\r\n", 431, "headers-too-large"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"a" * 500, 431, "headers-too-large"),
        (b"GET /healthz?", FILL, 414, "url-too-long"),
        (b"GET /", FILL[:500], 414, "url-too-long"),
    ],
    ids=["one value", "many headers", "one name", "query", "path"],
)
def test_an_endless_head_is_refused_long_before_its_end(
    server: Server, begin: bytes, more: bytes, status: int, slug: str
) -> None:
    pieces = itertools.repeat(more, MEGABYTES * 1_000_000 // len(more))
    with connect(server) as connection:
        # The rest was in the buffers of the two ends.
        assert pour(connection, itertools.chain([begin], pieces)) < MEGABYTES * 900_000
        check_refused(server, answers(connection), status, slug)
    assert is_well(server)


@pytest.mark.parametrize(
    ("head", "status", "slug"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "url-too-long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 1000 + b"\r\n", 431, "headers-too-large"),
        (b"not http at all\r\n\r\n", 400, "malformed"),
        (b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
    ],
    ids=["URL", "number of headers", "garbage", "no URL"],
)
def test_a_head_that_is_no_good_is_refused_with_a_problem_document(
    server: Server, head: bytes, status: int, slug: str
) -> None:
    with connect(server) as connection:
        connection.sendall(head)
        check_refused(server, answers(connection), status, slug)


def test_a_refused_url_is_not_in_the_log_beyond_its_path(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /healthz?secret=" + b"s" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        _, headers, _ = split(answers(connection))
    wait_for(lambda: bool(logged(server.log, headers["x-request-id"])))
    assert "secret" not in server.log.read_text()


def test_large_heads_below_the_limits_are_served(server: Server) -> None:
    headers = {f"x-{i}": "v" * 300 for i in range(180)}
    with httpx.Client(base_url=server.url) as http:
        for _ in range(3):
            assert http.get(f"/healthz?{'q' * 15_000}", headers={"x": "v" * 40_000}).status_code == 200
            assert http.get("/healthz", headers=headers).status_code == 200


def chunked(*chunks: bytes) -> bytes:
    head = b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(chunks)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (chunked(b"1;"), b"e" * 500),
        (chunked(), b"1;" + b"e" * 5000 + b"\r\n \r\n"),
        (chunked(b"1d\r\n", SAMPLE, b"\r\n0\r\n"), b"X-Trailer: " + b"t" * 500 + b"\r\n"),
        (chunked(b"1d\r\n", SAMPLE, b"\r\n0\r\nX-Trailer: "), b"t" * 500),
    ],
    ids=["one extension", "an extension a chunk", "trailers", "one trailer"],
)
def test_framing_without_end_is_refused(server: Server, begin: bytes, more: bytes) -> None:
    pieces = itertools.repeat(more, MEGABYTES * 1_000_000 // len(more))
    with connect(server) as connection:
        assert pour(connection, itertools.chain([begin], pieces)) < MEGABYTES * 900_000
        check_refused(server, answers(connection), 431, "headers-too-large")
    assert is_well(server)


def test_chunks_of_one_byte_and_trailers_are_served(server: Server) -> None:
    padded = SAMPLE + b" " * 60_000
    chunks = (b"1\r\n" + padded[i : i + 1] + b"\r\n" for i in range(len(padded)))
    with connect(server) as connection:
        connection.sendall(chunked(*chunks, b"0\r\nAuthorization: Bearer x\r\n\r\n"))
        assert next_status(connection) == 200
        # The connection is good for more.
        connection.sendall(chunked(b"1d\r\n", SAMPLE, b"\r\n0\r\n\r\n"))
        assert next_status(connection) == 200


def test_a_few_pipelined_requests_are_answered_and_a_flood_of_them_is_refused(server: Server) -> None:
    request = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(request * 9 + last)
        assert answers(connection).count(b"HTTP/1.1 200 ") == 10
    with connect(server) as connection:
        pour(connection, itertools.repeat(request * 100, 10))
        received = answers(connection)
    assert b"HTTP/1.1 429 " in received
    assert received.count(b"HTTP/1.1 200 ") < 1000
    assert is_well(server)


def test_a_head_that_trickles_in_is_given_up_on(impatient: Server) -> None:
    with connect(impatient) as connection:
        connection.settimeout(0.2)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        received = b""

        def hung_up() -> bool:
            nonlocal received
            try:
                connection.sendall(b"a")
                received += connection.recv(65536)
            except TimeoutError:
                return False
            except ConnectionError:
                return True
            return bool(received)

        wait_for(hung_up)
        connection.settimeout(HANG)
        check_refused(impatient, received + answers(connection), 408, "head-too-slow")


def test_a_connection_that_asks_nothing_is_closed(impatient: Server) -> None:
    with connect(impatient) as connection:
        assert answers(connection) == b""


def test_a_body_that_nobody_reads_does_not_keep_a_connection(impatient: Server) -> None:
    """The answer is there at once; what trickles in after it is no request."""
    with connect(impatient) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        connection.settimeout(0.2)
        received = b""

        def closed() -> bool:
            nonlocal received
            try:
                connection.sendall(b"a")
                chunk = connection.recv(65536)
            except TimeoutError:
                return False
            except ConnectionError:
                return True
            received += chunk
            return not chunk

        wait_for(closed)
        assert received.startswith(b"HTTP/1.1 200 ")


def test_a_request_to_upgrade_is_answered_in_this_protocol(server: Server) -> None:
    upgrade = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(upgrade + last)
        assert answers(connection).count(b"HTTP/1.1 200 ") == 2
