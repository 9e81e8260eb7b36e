"""HTTP load: as many requests as a server answers (wrk, or asyncio where there is none), or as many as a clock says.

Latencies of a clock's requests count from when they were due, not from when they were sent.
"""

import asyncio
import json
import random
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

T = TypeVar("T")

HOST = "127.0.0.1"

_WRK_SCRIPT = """
wrk.method = "{method}"
wrk.path = "{path}"
wrk.headers["Content-Type"] = "{content_type}"
wrk.headers["Accept"] = "{accept}"
{body}
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{{"requests": %d, "seconds": %.6f, "failed": %d, "median": %.6f, "p99": %.6f}}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
"""


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes = b""
    media_type: str = "application/json"

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"

    @property
    def raw(self) -> bytes:
        """The bytes on the wire."""
        head = (
            f"{self.method} {self.path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: {self.media_type}\r\n"
            f"Content-Type: {self.media_type}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@dataclass(frozen=True)
class Load:
    """What came back; latencies in seconds."""

    requests: int
    seconds: float
    failed: int
    median: float
    p99: float

    @property
    def per_second(self) -> float:
        return (self.requests - self.failed) / self.seconds


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


# As many as the server answers


def generator() -> str:
    """What `saturate` sends with."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def saturate(port: int, request: Request, *, connections: int, seconds: float) -> Load:
    """Every connection sends its next request when it has the answer to the last one."""
    if shutil.which("wrk"):
        return _wrk(port, request, connections, seconds)
    return run(_closed_loop(port, request, connections, seconds))


def _wrk(port: int, request: Request, connections: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory() as name:
        script, body = Path(name, "request.lua"), Path(name, "body")
        body.write_bytes(request.body)
        read = f'local file = io.open("{body}", "rb")\nwrk.body = file:read("*a")' if request.body else ""
        described = {"method": request.method, "path": request.path, "body": read}
        media = {"content_type": request.media_type, "accept": request.media_type}
        script.write_text(_WRK_SCRIPT.format(**described, **media))
        options = ["-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "--timeout", "60s"]
        command = ["wrk", *options, "-s", str(script), f"http://{HOST}:{port}"]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    return Load(**json.loads(found.stdout.strip().splitlines()[-1]))


async def _closed_loop(port: int, request: Request, connections: int, seconds: float) -> Load:
    latencies: list[float] = []
    failed = 0
    end = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal failed
        connection = await Connection.open(port)
        while (since := time.perf_counter()) < end:
            status, _ = await connection.ask(request.raw)
            latencies.append(time.perf_counter() - since)
            failed += status != 200
        connection.close()

    since = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(connections)))
    took = time.perf_counter() - since
    return Load(len(latencies), took, failed, percentile(latencies, 0.5), percentile(latencies, 0.99))


# As many as a clock says


@dataclass
class Answer:
    due: float
    latency: float
    status: int
    body: bytes


@dataclass
class Clock:
    """An open loop: requests are sent when they are due, whether or not earlier ones have been answered."""

    port: int
    request: Request
    # Seconds from one request to the next, without end.
    gaps: Iterator[float]
    # Seconds after which an answer is given up, with status 0; None waits for ever.
    patience: float | None = None
    # Whether connections are kept for the next request.
    keep: bool = True
    answers: list[Answer] = field(default_factory=list)
    _idle: deque["Connection"] = field(default_factory=deque)

    async def run(self, until: Callable[[], bool]) -> list[Answer]:
        """Sends until the condition holds and waits for the last answers."""
        waiting: set[asyncio.Task[None]] = set()
        if self.keep:
            # Connections are made ahead: callers keep theirs alive.
            self._idle.extend([await Connection.open(self.port) for _ in range(32)])
        due = time.perf_counter()
        while not until():
            due += next(self.gaps)
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            task = asyncio.create_task(self._ask(due))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.gather(*waiting)
        for connection in self._idle:
            connection.close()
        return self.answers

    async def _ask(self, due: float) -> None:
        status, body = 0, b""
        # A time that is up is an OSError, too.
        with suppress(OSError):
            async with asyncio.timeout(self.patience):
                status, body = await self._answer()
        self.answers.append(Answer(due, time.perf_counter() - due, status, body))

    async def _answer(self) -> tuple[int, bytes]:
        # The oldest first: a server closes those that are idle for long.
        while self._idle and self._idle[0].closed:
            self._idle.popleft()
        connection = self._idle.popleft() if self._idle else await Connection.open(self.port)
        try:
            answer = await connection.ask(self.request.raw)
        except BaseException:
            connection.close()
            raise
        if self.keep:
            self._idle.append(connection)
        else:
            connection.close()
        return answer


def evenly(rate: float) -> Iterator[float]:
    while True:
        yield 1 / rate


def poisson(rate: float, seed: int = 0) -> Iterator[float]:
    """The gaps between requests of callers who do not know of each other; a seed's gaps scale with 1 / rate."""
    rng = random.Random(seed)
    while True:
        yield rng.expovariate(rate)


def run(work: Awaitable[T]) -> T:
    """On uvloop where there is one: the generator's own delays count as the server's."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop

    async def main() -> T:
        return await work

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())


@dataclass
class OpenLoop:
    """The same from one thread with `select` and plain sockets, for rates that are a load: asyncio takes several times
    the processor time a request, and its timers wait for whole milliseconds.

    `share` is the processor time that the generator itself took, of one core. A connection that the server closes
    before it answers is replaced, and its request sent again.
    """

    port: int
    request: Request
    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    share: float = 0.0
    _idle: deque[socket.socket] = field(default_factory=deque)
    # When its request was due, and what has come of its answer.
    _busy: dict[socket.socket, tuple[float, "Answers"]] = field(default_factory=dict)

    def run(self, gaps: Iterator[float], seconds: float, connections: int) -> "OpenLoop":
        """Sends until the time is up and waits up to a minute for the last answers."""
        self._idle.extend(self._connect() for _ in range(connections))
        raw = self.request.raw
        since, used = time.perf_counter(), time.process_time()
        end, due = since + seconds, since + next(gaps)
        while due < end or self._busy:
            now = time.perf_counter()
            # `select` takes a thousand descriptors; beyond, a request waits, and its latency counts.
            while due <= now and due < end and len(self._busy) < 512:
                self._send(raw, due)
                due += next(gaps)
            if now > end + 60:
                break
            wait = due - now if due < end else 1.0
            for ready in select.select(list(self._busy), [], [], max(0.0, wait))[0]:
                self._receive(raw, ready)
        self.share = (time.process_time() - used) / (time.perf_counter() - since)
        self.failed += len(self._busy)
        for connection in (*self._idle, *self._busy):
            connection.close()
        return self

    def percentile(self, share: float) -> float:
        return percentile(self.latencies, share)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((HOST, self.port), 60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _send(self, raw: bytes, due: float) -> None:
        # The one that has been idle for longest: all are used alike, whatever worker has them.
        connection = self._idle.popleft() if self._idle else self._connect()
        self._busy[connection] = (due, Answers())
        with suppress(OSError):  # closed: `_receive` hears of it, too
            connection.sendall(raw)

    def _receive(self, raw: bytes, connection: socket.socket) -> None:
        due, answers = self._busy[connection]
        try:
            data = connection.recv(262_144)
        except OSError:
            data = b""
        if not data:
            del self._busy[connection]
            connection.close()
            self._send(raw, due)
        elif answer := answers.feed(data):
            del self._busy[connection]
            self._idle.append(connection)
            if answer[0] == 200:
                self.latencies.append(time.perf_counter() - due)
            else:
                self.failed += 1


# Connections


class Answers:
    """Cuts a stream into answers, of which there is at most one at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Whether the server closes the connection after the last one.
        self.closing = False

    def feed(self, data: bytes) -> tuple[int, bytes] | None:
        """Status and body, once they are complete."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return None
        fields = self._buffer[:head].lower()
        self.closing, length = b"\r\nconnection: close" in fields, _content_length(fields)
        if length is not None and len(self._buffer) < head + 4 + length:
            return None
        body = _unchunked(self._buffer, head + 4) if length is None else bytes(self._buffer[head + 4 :])
        if body is None:
            return None
        status = int(self._buffer[9:12])
        self._buffer.clear()
        return status, body


def _unchunked(buffer: bytearray, at: int) -> bytes | None:
    """The chunks from there on, joined; None if the last one has not come."""
    body = bytearray()
    while (line := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line].split(b";", 1)[0], 16)
        at = line + 2 + size + 2
        if at > len(buffer):
            return None
        if size == 0:
            return bytes(body)
        body += buffer[line + 2 : at - 2]
    return None


def _content_length(head: bytearray) -> int | None:
    at = head.find(b"\r\ncontent-length:")
    return None if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])


class Connection(asyncio.Protocol):
    """One request after the other on one kept connection."""

    def __init__(self) -> None:
        self._answers = Answers()
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if (answer := self._answers.feed(data)) and self._waiting and not self._waiting.done():
            self._waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(error or ConnectionResetError("the server closed the connection"))

    async def ask(self, raw: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError."""
        assert self._transport is not None
        if self.closed:
            raise ConnectionResetError("the server closed the connection")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        return await self._waiting

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class RawConnection:
    """One request after the other, blocking; on a new connection after an answer that closes the old one."""

    def __init__(self, port: int, timeout: float = 300) -> None:
        self._port, self._timeout = port, timeout
        self._open()

    def _open(self) -> None:
        self._socket = socket.create_connection((HOST, self._port), self._timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = Answers()

    def ask(self, raw: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError."""
        if self._answers.closing:
            self.close()
            self._open()
        self._socket.sendall(raw)
        while data := self._socket.recv(262_144):
            if answer := self._answers.feed(data):
                return answer
        raise ConnectionResetError("the server closed the connection")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "RawConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(port: int, request: Request, timeout: float = 300) -> tuple[int, bytes]:
    """On a connection of its own. Raises OSError."""
    with RawConnection(port, timeout) as connection:
        return connection.ask(request.raw)
