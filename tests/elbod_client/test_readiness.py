"""Waiting for a server that starts."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from elbod_client import Client, NotReady
from elbod_client._errors import ElbodError
from elbod_client._readiness import FIRST_PAUSE, MAX_PAUSE, Wait
from elbod_store import ModelStore
from tests.elbod_client.scripted import Reply, answering
from tests.elbod_client.test_retries import refused_url
from tests.support import BITS, HANG, Server, publish

READY = Reply(body=b'{"ready": true}')
STARTING = Reply(503, b'{"ready": false, "problems": ["m@2: damaged"]}')


def test_a_server_is_asked_until_it_is_ready() -> None:
    with answering(STARTING, Reply(0), Reply(502, b"<html>", "text/html"), READY) as script:
        with Client(script.url) as client:
            client.wait_until_ready(timeout=HANG)
        assert [asked.path for asked in script.asked] == ["/readyz"] * 4


def test_the_error_at_the_end_says_what_readyz_last_said() -> None:
    with (
        answering(STARTING) as script,
        Client(script.url) as client,
        pytest.raises(NotReady, match=r"not ready after 1 s.*m@2: damaged") as caught,
    ):
        client.wait_until_ready(timeout=1)
    assert caught.value.status_code == 503
    assert len(script.asked) > 1


def test_a_refused_connection_counts_as_not_ready_and_is_said_at_the_end() -> None:
    started = time.monotonic()
    with Client(refused_url()) as client, pytest.raises(NotReady, match="refused"):
        client.wait_until_ready(timeout=0.3)
    assert time.monotonic() - started >= 0.3


def test_somebody_elses_page_is_not_a_ready_server() -> None:
    with (
        answering(Reply(200, b"<html>hello", "text/html")) as script,
        Client(script.url) as client,
        pytest.raises(NotReady, match="<html>hello"),
    ):
        client.wait_until_ready(timeout=2)


def test_a_server_becomes_ready_when_its_first_model_is_published(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    store = ModelStore.open(tmp_path / "store")
    server = start_server(store.objects.url, ELBOD_POLL_INTERVAL="0.1")
    with Client(server.url) as client:
        with pytest.raises(NotReady):
            client.wait_until_ready(timeout=0.1)
        publisher = threading.Timer(0.3, publish, (store, "bits", BITS))
        publisher.start()
        client.wait_until_ready(timeout=HANG)
        publisher.join()
        assert client.sample(2).model.name == "bits"


def test_pauses_grow_to_a_limit_and_end_at_the_deadline() -> None:
    wait, last = Wait("http://host", 30, now=100), ElbodError("starting")
    pauses = [wait.pause(100, last) for _ in range(12)]
    assert pauses[0] == FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE
    assert wait.pause(129.9, last) == pytest.approx(0.1)
    with pytest.raises(NotReady, match="http://host is not ready after 30 s"):
        wait.pause(130, last)
