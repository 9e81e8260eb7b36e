"""An honest caller next to a hostile one: the same worker answers it with the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support import Server

# Of answers that say why a request is refused.
MAX_ERROR_BYTES = 16 * 1024
# A worker that is not ready or a deadline: what the document promises beside refusals.
UNAVAILABLE = (503, 504)

_ROWS = [[[(row + column) % 17 for column in range(8)] for row in range(8)]]


class Caller:
    """Asks for one score, again and again."""

    def __init__(self, server: Server, **headers: str) -> None:
        self._server, self._headers = server, headers
        self._first = self.ask()

    def ask(self) -> bytes:
        with httpx.Client(base_url=self._server.url, headers=self._headers, timeout=60) as http:
            answer = http.post("/elbo", json={"model": "levels", "x": _ROWS, "seed": 1, "num_samples": 8})
            assert answer.status_code == 200, answer.text
            assert http.get("/healthz").status_code == 200
        return answer.content

    def check(self) -> None:
        """The server lives, its worker is the one that it began with, and the answer is that of the beginning."""
        assert self._server.process.poll() is None
        assert self.ask() == self._first


@contextmanager
def unharmed(server: Server, **headers: str) -> Iterator[Caller]:
    """What happens inside must not change what the honest caller gets."""
    worker = workers(server)
    caller = Caller(server, **headers)
    yield caller
    caller.check()
    assert workers(server) == worker, "a worker was replaced"


def check_answer(answer: httpx.Response, document: dict[str, Any], path: str) -> None:
    """The status is documented, no bug's, and a refusal is short."""
    assert str(answer.status_code) in document["paths"][path][answer.request.method.lower()]["responses"]
    if answer.status_code >= 400:
        assert answer.status_code < 500 or answer.status_code in UNAVAILABLE, answer.text[:2000]
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.content) <= MAX_ERROR_BYTES


def workers(server: Server) -> set[int]:
    """Process ids of the server's workers."""
    pid = server.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
