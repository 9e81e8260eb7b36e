"""One HTTP/1.1 connection: uvicorn's protocol, with bounds on what a caller may send, and on how slowly it may go.

Bytes are counted before they are parsed, since a parser keeps what it has not understood yet. A request that is refused
here goes through the application like any other, with its error in `scope["state"]["refusal"]`, so that it has an
id, a line in the log and a place in the metrics.
"""

import asyncio
import contextlib
import fcntl
import struct
import termios
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from elbod.api.balance import Balance
from elbod.errors import HeadersTooLarge, HeadTooSlow, Malformed, QueueFull, RequestError, UrlTooLong

_MOST_HEAD_BYTES = 64 * 1024
_MOST_URL_BYTES = 16 * 1024
_MOST_HEADERS = 256
# Requests that a caller may send before the first of them is answered.
_MOST_PIPELINED = 16
# Sizes of chunks, their extensions and trailers are framing. A byte of body pays for so many bytes of it, which is more
# than chunks of one byte need.
_FRAMING_PER_BODY_BYTE = 8
_LOGGED_URL_BYTES = 200
# Of a body, to be copied behind its head.
_JOINED_BYTES = 64 * 1024
# Seconds that a refused caller has to read why, before what it still sends resets the connection, and that a new
# connection has for its request, once the server drains.
_LINGER = 2.0


class _Phase(Enum):
    """What of a message comes next."""

    BEGIN = auto()
    HEAD = auto()
    BODY = auto()


class Connection(HttpToolsProtocol):
    """A connection whose head, framing and pipeline are bounded in bytes, and all of it in time.

    timeout: seconds for the arrival of a head, and for a write that makes no progress.
    draining: whether the server shuts down; then every answer closes its connection.
    balance: counts the connections of this worker, and says which of them move to another one.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        *,
        timeout: float,
        draining: Callable[[], bool],
        balance: Balance,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._timeout, self._draining, self._balance = timeout, draining, balance
        # Whether it counts as in use, and whether a request came since the last check.
        self._in_use, self._asked = True, False
        # The request after which the caller should reconnect to another worker.
        self._last: RequestResponseCycle | None = None
        self._phase = _Phase.BEGIN
        self._refused = False
        self.url = b""
        # Bytes of this message that were parsed and are no body.
        self._framing = 0
        # Of what is being parsed: messages that began, and bytes of their bodies.
        self._begun = self._body_bytes = 0
        # Since when no request is under way, once the caller has to send one.
        self._waiting_since: float | None = None
        # What the caller has not acknowledged yet, and since when it is as much.
        self._unsent, self._unsent_since = 0, 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._balance.close(in_use=self._in_use)

    def shutdown(self) -> None:
        # The request of a new connection may be on its way: it is told to go elsewhere.
        if self.cycle is not None:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._waiting_since is None and not self._refused and (self.cycle is None or self.cycle.response_complete):
            self._waiting_since = self.loop.time()
        rest = memoryview(data)
        while rest and not self._refused and not self.transport.is_closing():
            room = _MOST_HEAD_BYTES - self._framing if self._phase is _Phase.HEAD else _MOST_HEAD_BYTES
            self._parse(rest[:room])
            rest = rest[room:]

    def _parse(self, data: memoryview) -> None:
        self._begun = self._body_bytes = 0
        from_begin = self._phase is _Phase.BEGIN
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Nothing here is worth another protocol: the request is answered in this one.
            self._parse(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            # The parser wraps what the methods below raise.
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RequestError) else Malformed(f"this is no HTTP/1.1: {error}"))
            return
        if self._phase is _Phase.BEGIN or self._begun > from_begin:
            # Where the message began within the data is not known: its bytes count from here on.
            self._framing = 0
            return
        self._framing += len(data) - self._body_bytes
        self._framing = max(0, self._framing - _FRAMING_PER_BODY_BYTE * self._body_bytes)
        if len(self.url) > _MOST_URL_BYTES:
            self._refuse(_url_too_long())
        elif self._framing >= _MOST_HEAD_BYTES:
            self._refuse(_headers_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun += 1
        self._framing = 0
        self._phase = _Phase.HEAD

    def on_headers_complete(self) -> None:
        if len(self.url) > _MOST_URL_BYTES:
            raise _url_too_long()
        if len(self.headers) > _MOST_HEADERS:
            raise HeadersTooLarge(f"the request has {len(self.headers)} headers, the limit is {_MOST_HEADERS}")
        if len(self.url) + sum([len(name) + len(value) for name, value in self.headers]) > _MOST_HEAD_BYTES:
            raise _headers_too_large()
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise QueueFull(f"more than {_MOST_PIPELINED} requests wait on this connection", retry_after=1)
        super().on_headers_complete()
        self.cycle.transport = _Answering(self.transport, self.cycle)  # type: ignore[assignment]
        self._phase = _Phase.BODY
        self._waiting_since = None
        self._asked = True
        self._use(True)
        self._keep_or_close()
        # Trailers come as headers, too late for anybody.
        self.headers = []

    def _keep_or_close(self) -> None:
        """Close after this answer if the server drains, or if the caller should reconnect to another worker."""
        last, self._last = self._last, None
        if self._draining():
            self.cycle.keep_alive = False
        elif self.pipeline:
            # The caller sends requests ahead, and would lose this one.
            if last is not None and not last.response_started:
                last.keep_alive = True
        elif self.cycle.keep_alive and self._balance.moves_one():
            self.cycle.keep_alive = False
            self._last = self.cycle

    def _use(self, in_use: bool) -> None:
        if in_use != self._in_use:
            self._in_use = in_use
            self._balance.use(1 if in_use else -1)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase = _Phase.BEGIN
        self.url = b""

    def _refuse(self, error: RequestError) -> None:
        """Answer the message that arrives with an error, after those before it, and close the connection."""
        self._refused = True
        self._waiting_since = None
        if self._phase is _Phase.BODY:
            if self.cycle.response_complete:
                self.transport.close()
                return
        else:
            method, path = self.parser.get_method().decode() if self.url else "-", self.url[:_LOGGED_URL_BYTES]
            super().on_message_begin()
            self.url = b"/"
            super().on_headers_complete()
            self.scope["method"], self.scope["path"] = method, path.partition(b"?")[0].decode("latin-1")
        self.scope["state"]["refusal"] = error
        self.cycle.keep_alive = self.cycle.more_body = False
        self.cycle.transport = _Answering(self.transport, self.cycle, lingers=True)  # type: ignore[assignment]
        self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        if self._refused and self.cycle.response_complete:
            self._waiting_since = self.loop.time()
        else:
            super().on_response_complete()

    def check(self, now: float) -> None:
        """End what makes no progress; called every now and then with the loop's time.

        A connection that was answered and asked nothing since the last call is not in use.
        """
        self._use(self._asked or self.cycle is None or not self.cycle.response_complete)
        self._asked = False
        pending = self.transport.get_write_buffer_size()
        if pending:
            unsent = pending + _unacknowledged(self.transport)
            if unsent != self._unsent:
                self._unsent, self._unsent_since = unsent, now
            elif now - self._unsent_since > self._timeout:
                self.transport.abort()
            return
        self._unsent = 0
        patience = _LINGER if self._refused or self._draining() else self._timeout
        if self._waiting_since is None or now - self._waiting_since <= patience or self.transport.is_closing():
            return
        if self._phase is _Phase.HEAD and not self._refused:
            self._refuse(HeadTooSlow(f"the head of the request did not arrive within {self._timeout:g} s"))
        else:
            self.transport.close()


class _Answering:
    """The transport of one answer. The head waits for the body, and both are one packet.

    lingers: close only once the caller has had time to read: with input unread, a close throws away the answer.
    """

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle, *, lingers: bool = False) -> None:
        self.is_closing, self._transport, self._cycle, self._lingers = transport.is_closing, transport, cycle, lingers
        # None before it is written; uvicorn writes nothing after the head of an answer to HEAD.
        self._head: bytes | None = b"" if cycle.scope["method"] == "HEAD" else None

    def write(self, data: bytes | memoryview) -> None:
        # What comes before an answer is `100 Continue`, for which the caller waits.
        if self._head is None and self._cycle.response_started:
            self._head = bytes(data)
        elif self._head and len(data) <= _JOINED_BYTES:
            self._transport.write(self._head + bytes(data))
            self._head = b""
        else:
            self._flush()
            self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self._flush()
        if not self._lingers:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.pause_reading()
            self._transport.write_eof()


def _url_too_long() -> UrlTooLong:
    return UrlTooLong(f"the URL is longer than {_MOST_URL_BYTES} bytes: send what is long in a body")


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"headers, or what frames the body, are longer than {_MOST_HEAD_BYTES} bytes")


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the kernel holds for the peer, 0 where it does not say."""
    size = bytearray(4)
    with contextlib.suppress(OSError, ValueError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, size)
    return int(struct.unpack("i", size)[0])
