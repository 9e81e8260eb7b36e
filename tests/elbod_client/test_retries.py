"""What is tried again, when, and what is said about it."""

import logging
import socket
from email.utils import formatdate

import httpx
import pytest

from elbod_client import Client, ConnectionFailed, ElbodError, InvalidInput, InvalidResponse, NotReady, QueueFull
from elbod_client._retries import (
    INITIAL_DELAY,
    JITTER,
    MAX_DELAY,
    MAX_RETRY_AFTER,
    back_off,
    delay_before_retry,
    parse_retry_after,
)
from tests.elbod_client.scripted import SAFETENSORS, SAMPLES, VERSION, Reply, answering


def refused_url() -> str:
    """Where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_said_and_every_retry_is_logged(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    busy = Reply.problem(status, "busy now", Retry_After="0")
    with (
        answering(busy, Reply.problem(status, "still busy", Retry_After="1"), VERSION) as script,
        Client(script.url) as client,
        caplog.at_level(logging.INFO, "elbod_client"),
    ):
        assert client.version() == "1.2.3"
    assert script.waits[1] >= 1
    lines = [record.getMessage() for record in caplog.records if record.name == "elbod_client"]
    assert len(lines) == 2
    assert lines[0] == "GET /version: retry 1 of 4 in 0.00 s: busy now"
    assert lines[1].startswith("GET /version: retry 2 of 4 in 1.")


def test_a_retry_sends_the_same_body_again_under_a_new_request_id() -> None:
    full = Reply.problem(429, "full", Retry_After="0")
    with (
        answering(full, Reply(200, SAMPLES, SAFETENSORS)) as script,
        Client(script.url) as client,
    ):
        assert client.sample().x.tolist() == [[1, 2]]
    first, second = script.asked
    assert first.body == second.body
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_a_connection_closed_without_an_answer_is_tried_again() -> None:
    with answering(Reply(0), VERSION) as script, Client(script.url) as client:
        assert client.version() == "1.2.3"
    assert script.waits[0] >= INITIAL_DELAY * (1 - JITTER)


def test_an_answer_that_breaks_off_is_tried_again() -> None:
    with answering(Reply(200, b'{"ver', cut=20), VERSION) as script, Client(script.url) as client:
        assert client.version() == "1.2.3"


def test_the_last_error_is_raised_when_the_retries_are_used_up() -> None:
    with (
        answering(Reply.problem(429, "the queue is full", Retry_After="0")) as script,
        Client(script.url, max_retries=2) as client,
        pytest.raises(QueueFull, match="the queue is full") as caught,
    ):
        client.version()
    assert len(script.asked) == 3
    assert caught.value.retry_after == 0


def test_nobody_waits_longer_than_a_minute_for_a_retry() -> None:
    with (
        answering(Reply.problem(503, "back tomorrow", Retry_After="86400")) as script,
        Client(script.url) as client,
        pytest.raises(NotReady) as caught,
    ):
        client.version()
    assert len(script.asked) == 1
    assert caught.value.retry_after == 86400


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 500, 502, 504])
def test_what_would_fail_again_is_not_tried_again(status: int) -> None:
    with (
        answering(Reply.problem(status, "no", Retry_After="0")) as script,
        Client(script.url) as client,
        pytest.raises(ElbodError),
    ):
        client.version()
    assert len(script.asked) == 1


@pytest.mark.parametrize("status", [500, 502])
def test_what_a_proxy_says_of_a_lost_server_is_tried_again(status: int) -> None:
    lost = Reply(status, b"Internal Server Error", "text/plain")
    with answering(lost, VERSION) as script, Client(script.url) as client:
        assert client.version() == "1.2.3"
    assert len(script.asked) == 2


def test_a_slow_answer_is_not_asked_for_twice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=0.2) as client, pytest.raises(ConnectionFailed, match="in time"):
            client.version()
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_refused_connection_is_tried_again_then_named() -> None:
    url = refused_url()
    with Client(url, max_retries=1) as client, pytest.raises(ConnectionFailed, match=url) as caught:
        client.version()
    assert caught.value.status_code is None
    assert caught.value.request_id is not None
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


def test_back_off_doubles_up_to_its_limit() -> None:
    assert [back_off(retry) for retry in range(1, 7)] == [0.5, 1, 2, 4, 8, 8]
    assert back_off(10**6) == MAX_DELAY


def test_jitter_comes_earlier_than_the_back_off_and_later_than_retry_after() -> None:
    silent, said = NotReady(""), NotReady("", retry_after=10)
    assert delay_before_retry(silent, 1, 4, 0.0) == INITIAL_DELAY
    assert delay_before_retry(silent, 1, 4, 1.0) == INITIAL_DELAY * (1 - JITTER)
    assert delay_before_retry(said, 1, 4, 0.0) == 10
    assert delay_before_retry(said, 1, 4, 1.0) == 10 * (1 + JITTER)


def test_errors_of_the_caller_the_last_attempt_and_long_waits_are_not_retried() -> None:
    assert delay_before_retry(InvalidInput(""), 1, 4, 0.5) is None
    assert delay_before_retry(InvalidResponse(""), 1, 4, 0.5) is None
    assert delay_before_retry(QueueFull(""), 5, 4, 0.5) is None
    assert delay_before_retry(QueueFull("", retry_after=MAX_RETRY_AFTER + 1), 1, 4, 0.5) is None


def test_retry_after_is_read_as_seconds_or_as_a_date_on_the_servers_clock() -> None:
    now = 1_800_000_000.0
    later = formatdate(now + 30, usegmt=True)
    assert parse_retry_after({"retry-after": " 7 "}, now) == 7
    assert parse_retry_after({"retry-after": later}, now) == 30
    assert parse_retry_after({"retry-after": later, "date": formatdate(now + 10, usegmt=True)}, now=0) == 20
    assert parse_retry_after({"retry-after": formatdate(now - 30, usegmt=True)}, now) == 0


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "nan", "inf", "\u0661", "Mon, 99 Foo 2026 99:99:99 GMT"])
def test_a_retry_after_that_makes_no_sense_counts_as_none(value: str) -> None:
    assert parse_retry_after({"retry-after": value}, 0.0) is None


def test_a_retry_after_beyond_all_numbers_is_only_long() -> None:
    assert parse_retry_after({"retry-after": "9" * 5000}, 0.0) == float("inf")
