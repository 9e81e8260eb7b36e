"""A real HTTP server on a free port that gives prepared answers, one a request, and keeps what it was asked."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Reply:
    """`cut` bytes of the body are promised and not sent; a status of 0 closes the connection without an answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0

    @classmethod
    def problem(cls, status: int, detail: str, **headers: str) -> "Reply":
        body = json.dumps({"type": "about:blank", "title": "Title", "status": status, "detail": detail}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, body, "application/problem+json", named)


VERSION = Reply(body=b'{"name": "elbod", "version": "1.2.3"}')


@dataclass(frozen=True)
class Asked:
    """One request as it came in; `at` is on the monotonic clock."""

    method: str
    path: str
    headers: Message
    body: bytes
    at: float


class Scripted:
    """Gives its replies in turn; the last one again and again."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.asked: list[Asked] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_PUT(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                reply = replies[min(len(script.asked), len(replies) - 1)]
                script.asked.append(Asked(self.command, self.path, self.headers, body, time.monotonic()))
                if reply.status:
                    self.send_response(reply.status)
                    named = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body) + reply.cut)}
                    for name, value in (named | dict(reply.headers)).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(reply.body)

            def log_message(self, *_: Any) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def waits(self) -> list[float]:
        """Seconds between the requests."""
        moments = [asked.at for asked in self.asked]
        return [after - before for before, after in pairwise(moments)]

    @contextmanager
    def running(self) -> Iterator["Scripted"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def answering(*replies: Reply) -> Any:
    """A running `Scripted` as a context manager."""
    return Scripted(replies).running()


def safetensors(response: object, tensors: Mapping[str, tuple[str, list[int], bytes]]) -> bytes:
    """A response body from (dtype, shape, bytes), written out by hand."""
    header: dict[str, Any] = {"__metadata__": {"response": json.dumps(response)}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


ORIGIN = {
    "model": {"name": "m", "version": 3, "digest": "d"},
    "seed": 7,
    "first_index": 0,
    "fingerprint": "f",
    "reproducible": True,
}
SAFETENSORS = "application/x-safetensors"
SAMPLES = safetensors(ORIGIN, {"x": ("U8", [1, 2], b"\x01\x02"), "z": ("F32", [1, 1], bytes(4))})
