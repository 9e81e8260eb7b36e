"""Malformed, cut, slow and pipelined HTTP on raw sockets: refused or dropped, and honest callers are answered."""

import contextlib
import json
import random
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.fuzz.conftest import Budget
from tests.fuzz.honest import MAX_ERROR_BYTES, UNAVAILABLE, unharmed
from tests.support import Server

_PATIENCE = 8.0  # longer than the server's own limit of a request
_BODY = json.dumps({"x": [[[1] * 8] * 8], "seed": 1}).encode()
_HEADS = (
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 1_0",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 0\r\nContent-Length: 9",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3",
    b"Transfer-Encoding : chunked",
    b"Host: a\r\nHost: b",
    b"Connection: close",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Expect: 100-continue",
    b"Accept: " + b"a/b," * 5_000,
    b"X: " + b"y" * 100_000,
    b"\x00: 1",
    b"Accept: \xff\xfe",
    b" folded: 1",
    b"Request-Timeout: 0.001",
    b"Request-Timeout: nan",
)
_TARGETS = (
    b"/elbo",
    b"/sample?seed=1",
    b"/models/levels",
    b"/" + b"a" * 80_000,
    b"http://other/elbo",
    b"//elbo",
    b"/%00",
    b"/..%2f..%2fetc/passwd",
    b"/sample?" + b"a=1&" * 3_000,
    b"*",
    b"",
)
_METHODS = (b"POST", b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"P\x00ST", b"get", b"PRI")


def request_of(rng: random.Random) -> bytes:
    """One request: honest, or wrong in one of the ways above."""
    method, target = rng.choice((b"POST", rng.choice(_METHODS))), rng.choice((b"/elbo", rng.choice(_TARGETS)))
    version = rng.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTP/1.1"))
    headers = [b"Host: x", b"Content-Type: application/json", *rng.sample(_HEADS, rng.randrange(3))]
    body = _BODY
    if rng.random() < 0.4:
        headers.append(b"Transfer-Encoding: chunked")
        body = b"".join(chunks_of(rng))
    elif rng.random() < 0.8:
        headers.append(b"Content-Length: %d" % (len(body) + rng.choice((0, 0, 0, -1, 1, 1000))))
    rng.shuffle(headers)
    return b"\r\n".join([b" ".join((method, target, version)), *headers, b"", body])


def chunks_of(rng: random.Random) -> Iterator[bytes]:
    """The body in chunks, the last of which may be missing or wrong."""
    rest = _BODY
    while rest:
        size = rng.randrange(1, len(rest) + 1)
        said = size if rng.random() < 0.95 else rng.choice((size + 1, 0, 2**63))
        yield b"%x\r\n" % said + rest[:size] + rng.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b""))
        rest = rest[size:]
    yield rng.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nTrailer: 1\r\n\r\n", b"-1\r\n\r\n", b""))


def damaged(request: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        start = rng.randrange(len(request))
        request = request[:start] + rng.randbytes(rng.randrange(6)) + request[start + rng.randrange(6) :]
    return request[: rng.randrange(1, len(request))] if rng.random() < 0.15 else request


def converse(server: Server, rng: random.Random) -> bytes:
    """Send one to three requests, at once or piece by piece, and return what comes back."""
    host, port = server.url.removeprefix("http://").split(":")
    sent = b"".join(damaged(request_of(rng), rng) for _ in range(rng.choice((1, 1, 2, 3))))
    step, received = rng.choice((len(sent), len(sent), 1000, 7)), b""
    # Small pieces of the first kilobytes are enough.
    pieces = [sent[i : i + step] for i in range(0, min(len(sent), 400 * step), step)]
    with socket.create_connection((host, int(port)), timeout=_PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
            if rng.random() < 0.2:
                # Leaves at once: nobody reads the answer.
                return b""
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
    return received


def statuses_of(received: bytes) -> list[int]:
    """Statuses of the answers in order; each refusal must be short."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        line, *headers = head.split(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), received[:200]
        status = int(line.split(b" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (header.partition(b":") for header in headers)}
        length = int(fields.get(b"content-length", b"0"))
        assert status < 400 or length <= MAX_ERROR_BYTES
        if not fields.get(b"content-length"):
            # Interim, or ended by the end of the connection.
            received = rest if status < 200 else b""
        else:
            received = rest[length:] if not rest.startswith(b"HTTP/1.1 ") else rest
        found.append(status)
    return found


@pytest.mark.share(0.15)
def test_raw_bytes_harm_nobody(plain: Server, budget: Budget) -> None:
    document = httpx.get(f"{plain.url}/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    documented = {int(status) for operation in operations for status in operation["responses"]} | {100, 405}
    for seed in budget.seeds():
        rng = random.Random(seed)
        with unharmed(plain) as honest:
            for _ in range(10):
                received = converse(plain, rng)
                for status in statuses_of(received):
                    assert status in documented, (seed, received[:2000])
                    assert status < 500 or status in UNAVAILABLE, (seed, received[:2000])
            honest.check()
