"""Answers that are not a 200 of elbod's own, and answers of a newer server."""

import pickle

import numpy as np
import pytest

import elbod_client
from elbod_client import Client, ElbodError, InvalidResponse, NotFound, ServerError
from tests.elbod_client.scripted import ORIGIN, SAFETENSORS, SAMPLES, Reply, answering, safetensors

CLASSES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "InvalidResponse",
    406: "NotAcceptable",
    408: "BodyTooSlow",
    409: "Conflict",
    413: "BodyTooLarge",
    415: "UnsupportedMediaType",
    422: "InvalidInput",
    429: "QueueFull",
    500: "ServerError",
    502: "ServerError",
    503: "NotReady",
    504: "DeadlineExceeded",
    204: "InvalidResponse",
}


def error_after(reply: Reply) -> ElbodError:
    """What `sample` raises after that answer."""
    with (
        answering(reply) as script,
        Client(script.url, max_retries=0) as client,
        pytest.raises(ElbodError) as caught,
    ):
        client.sample()
    return caught.value


@pytest.mark.parametrize("status", CLASSES)
def test_every_status_has_its_class_with_the_servers_words(status: int) -> None:
    error = error_after(Reply.problem(status, "the server's words", X_Request_Id="abc-1"))
    assert type(error) is getattr(elbod_client, CLASSES[status])
    assert str(error) == "the server's words" or status == 204
    assert (error.status_code, error.request_id) == (status, "abc-1")


def test_a_problem_is_kept_whole() -> None:
    error = error_after(Reply.problem(422, "no"))
    assert error.problem == {"type": "about:blank", "title": "Title", "status": 422, "detail": "no"}


def test_an_error_survives_pickling() -> None:
    error = error_after(Reply.problem(422, "no", X_Request_Id="abc-1"))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.problem, copy.request_id, copy.__notes__) == (
        str(error),
        error.problem,
        error.request_id,
        error.__notes__,
    )


def test_a_proxys_html_page_for_an_error_keeps_the_class_of_its_status() -> None:
    error = error_after(Reply(502, b"<html>\n<h1>Bad\x1b gateway</h1></html>", "text/html"))
    assert type(error) is ServerError
    assert str(error) == "502 Bad Gateway: <html> <h1>Bad gateway</h1></html>"
    assert error.problem is None


def test_an_html_page_instead_of_an_answer_is_an_invalid_response() -> None:
    error = error_after(Reply(200, b"<html>welcome" + b"!" * 1000, "text/html; charset=utf-8"))
    assert type(error) is InvalidResponse
    assert "expected application/x-safetensors, got text/html: <html>welcome!" in str(error)
    assert len(str(error)) < 400
    assert error.status_code == 200


def test_a_redirect_is_named_and_not_followed() -> None:
    error = error_after(Reply(301, headers={"Location": "https://elsewhere/sample"}))
    assert type(error) is InvalidResponse
    assert "https://elsewhere/sample" in str(error)


def test_a_page_that_does_not_exist_elsewhere_says_what_came_instead() -> None:
    error = error_after(Reply(404, b"nothing here", "text/plain"))
    assert type(error) is NotFound
    assert str(error) == "404 Not Found: nothing here"


def test_an_answer_that_breaks_off_is_an_invalid_response_with_its_status() -> None:
    error = error_after(Reply(200, SAMPLES, SAFETENSORS, cut=10))
    assert type(error) is InvalidResponse
    assert "cut short" in str(error)
    assert error.status_code == 200


@pytest.mark.parametrize("length", [*range(0, 12), len(SAMPLES) - 1])
def test_a_body_cut_at_any_place_is_an_invalid_response(length: int) -> None:
    assert type(error_after(Reply(200, SAMPLES[:length], SAFETENSORS))) is InvalidResponse


@pytest.mark.parametrize(
    "body",
    [
        safetensors(ORIGIN, {"x": ("U8", [1, 2], b"\x01\x02")}),
        safetensors({**ORIGIN, "seed": "7"}, {"x": ("U8", [1, 1], b"\x01"), "z": ("U8", [1, 1], b"\x01")}),
        safetensors({**ORIGIN, "seed": True}, {"x": ("U8", [1, 1], b"\x01"), "z": ("U8", [1, 1], b"\x01")}),
        safetensors({**ORIGIN, "model": None}, {"x": ("U8", [1, 1], b"\x01"), "z": ("U8", [1, 1], b"\x01")}),
        safetensors(ORIGIN, {"x": ("U8", [2, 1], b"\x01\x02"), "z": ("U8", [1, 1], b"\x01")}),
        safetensors(ORIGIN, {"x": ("U8", [], b"\x01"), "z": ("U8", [1, 1], b"\x01")}),
        safetensors([], {}),
    ],
)
def test_an_answer_without_its_fields_is_an_invalid_response(body: bytes) -> None:
    assert type(error_after(Reply(200, body, SAFETENSORS))) is InvalidResponse


def test_fields_and_tensors_of_a_newer_server_are_ignored() -> None:
    newer = {**ORIGIN, "model": {**ORIGIN["model"], "colour": "blue"}, "novelty": [1]}  # type: ignore[dict-item]
    body = safetensors(
        newer,
        {"new": ("F8_E4M3", [3], b"abc"), "x": ("U8", [1, 1], b"\x05"), "z": ("F32", [1, 1], bytes(4))},
    )
    with answering(Reply(200, body, SAFETENSORS)) as script, Client(script.url) as client:
        samples = client.sample()
    assert samples.x.tolist() == [[5]]
    # z begins at byte 4 of an odd place: it is readable all the same.
    np.testing.assert_array_equal(samples.z, np.zeros((1, 1), np.float32))
