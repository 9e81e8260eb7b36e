"""The composition's first step: a bucket, once. What the real store says to it is in test_compose_local.py."""

import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.deploy.composition import create_bucket


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "admin"
    path.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    return path


class Store(ThreadingHTTPServer):
    """Gives the answers in their order, and notes what it was asked."""

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked = list(answers), list[str]()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Store

    def do_PUT(self) -> None:
        self.server.asked.append(self.path.partition("?")[0])
        self.send_response(self.server.answers.pop(0))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Store]]:
    """Starts a store of those answers."""
    started: list[Store] = []

    def start(*answers: int) -> Store:
        started.append(Store(*answers))
        Thread(target=started[-1].serve_forever).start()
        return started[-1]

    yield start
    for store in started:
        store.shutdown()
        store.server_close()


def test_a_store_that_is_not_ready_is_asked_again(serve: Callable[..., Store], credentials: Path) -> None:
    store = serve(503, 200)
    done = create_bucket(store.url, credentials)
    assert done.stdout == "created bucket elbod\n"
    assert store.asked == ["/elbod/", "/elbod/"]


def test_a_refusal_is_not_asked_again(serve: Callable[..., Store], credentials: Path) -> None:
    store = serve(403, 200)
    done = create_bucket(store.url, credentials)
    assert done.returncode == 1
    assert done.stderr.startswith("create_bucket: bucket elbod cannot be created: 403")
    assert store.asked == ["/elbod/"]


def test_without_a_store_one_line_says_why(credentials: Path) -> None:
    failed = create_bucket("http://127.0.0.1:9", credentials, patience="0")
    assert failed.returncode == 1
    assert re.fullmatch(r"create_bucket: .*Connection refused.*\n", failed.stderr)


def test_without_credentials_one_line_says_why(tmp_path: Path) -> None:
    failed = create_bucket("http://127.0.0.1:9", tmp_path / "none")
    assert failed.returncode == 1
    assert re.fullmatch(
        r"create_bucket: cannot read .*/none, which AWS_SHARED_CREDENTIALS_FILE names: .*\n", failed.stderr
    )
