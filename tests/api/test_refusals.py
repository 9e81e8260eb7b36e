"""Bad input: the status and the words of the contract, and a server that goes on serving."""

import json
import socket
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from tests.support import Server

JSON = {"Content-Type": "application/json"}
X = [[[0] * 8] * 8]


def row_with(value: float, row: int = 3) -> Any:
    x = np.zeros((5, 8, 8))
    x[row, 1, 2] = value
    return x.tolist()


def check(response: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:elbod:problem:")
    assert body["instance"].endswith(response.headers["x-request-id"])
    for word in words:
        assert word in body["detail"]
    return body


@pytest.mark.parametrize(
    ("path", "body", "words", "pointer"),
    [
        ("/elbo", {"x": [[1, 2, 3]]}, ["shape [1, 3]", "(n, 8, 8)", "levels"], "/x"),
        ("/elbo", {"x": []}, ["shape [0]"], "/x"),
        ("/elbo", {"x": {"dtype": "uint8", "shape": [0, 8, 8], "data": ""}}, ["no rows"], "/x"),
        ("/elbo", {}, ["x is missing"], "/x"),
        ("/elbo", {"x": row_with(17)}, ["x[3] has value 17", "0 ... 16"], "/x/3/1/2"),
        ("/elbo", {"x": row_with(-1)}, ["x[3] has value -1"], "/x/3/1/2"),
        ("/elbo", {"x": row_with(0.5)}, ["x[3] has value 0.5", "discretized_logistic"], "/x/3/1/2"),
        ("/elbo", {"x": [[[0, 0.42, 0, 1]] * 3], "model": "bits"}, ["x[0] has value 0.42", "stochastic"], "/x/0/0/1"),
        ("/elbo", {"x": [[[0, 1.5, 0, 1]] * 3], "model": "bits", "binarize": "stochastic"}, ["[0, 1]"], "/x/0/0/1"),
        ("/elbo", {"x": X, "binarize": "stochastic"}, ["binarize is for bernoulli"], "/binarize"),
        ("/elbo", {"x": X, "num_samples": 0}, ["num_samples"], "/num_samples"),
        ("/elbo", {"x": X, "num_samples": 10**9}, ["num_samples is 1000000000, the limit is 1024"], "/num_samples"),
        ("/elbo", {"x": X, "num_importance_samples": 10**7}, ["limit is 16384"], "/num_importance_samples"),
        ("/elbo", {"x": X * 5000, "num_samples": 1000}, ["5000000 row-draws", "split"], ""),
        ("/elbo", {"x": X, "num_samples": 4, "target_standard_error": 1}, ["give one of them"], "/num_samples"),
        ("/elbo", {"x": X, "target_standard_error": 0}, ["target_standard_error"], "/target_standard_error"),
        ("/elbo", {"x": X, "num_samples": 1.5}, ["num_samples"], "/num_samples"),
        ("/elbo", {"x": X, "num_samples": "4"}, ["num_samples"], "/num_samples"),
        ("/elbo", {"x": X, "include": ["everything"]}, ["include"], "/include/0"),
        ("/elbo", {"x": X, "seed": -1}, ["seed"], "/seed"),
        ("/elbo", {"x": X, "seed": 2**63}, ["seed"], "/seed"),
        ("/elbo", {"x": X, "first_index": 2**56}, ["first_index"], "/first_index"),
        ("/elbo", {"x": X * 2, "first_index": 2**56 - 1}, ["2^56"], "/first_index"),
        ("/elbo", {"x": X, "colour": "red"}, ["colour"], "/colour"),
        ("/elbo", {"x": X, "model": 5}, ["model"], "/model"),
        ("/elbo", {"x": X, "model": ""}, ["no model name"], "/model"),
        ("/elbo", {"x": X, "model": "../etc/passwd"}, ["no model name"], "/model"),
        ("/sample", {"num_samples": 0}, ["num_samples"], "/num_samples"),
        ("/sample", {"num_samples": 10**9}, ["the limit is 5000"], "/num_samples"),
        ("/sample", {"x": X, "z": [[0] * 5]}, ["both z and x"], "/z"),
        ("/sample", {"x": X, "num_samples": 1}, ["num_samples is for draws from the prior"], "/num_samples"),
        ("/sample", {"z": [[0] * 4]}, ["shape [1, 4]", "(n, 5)"], "/z"),
        ("/sample", {"z": [[0, 0, 0, 0, 1e39]]}, ["z[0] has value 1e+39", "-1e+06 ... 1e+06"], "/z/0"),
        ("/sample", {"z": [[0] * 5], "temperature": 0.5}, ["temperature"], "/temperature"),
        ("/sample", {"z": [[0], [1.5]], "model": "mixture"}, ["z[1] is [1.5]", "'mixture'"], "/z/1"),
        ("/sample", {"z": [[6]], "model": "mixture"}, ["z[0] is [6.0]"], "/z/0"),
        ("/sample", {"temperature": -1}, ["temperature"], "/temperature"),
        ("/sample", {"output": "median"}, ["output"], "/output"),
        ("/encode", {"x": X, "num_samples": -1}, ["num_samples"], "/num_samples"),
        ("/elbo", {"x": X, "label": 1}, ["'levels' is not conditional"], "/label"),
        ("/sample", {"model": "labels"}, ["label is missing", "0 ... 2 (cat, dog, owl)"], "/label"),
        ("/encode", {"x": X, "model": "labels"}, ["label is missing"], "/label"),
        ("/elbo", {"x": X * 2, "model": "labels", "label": [0, 3]}, ["label[1] is 3", "(cat, dog, owl)"], "/label/1"),
        ("/elbo", {"x": X, "model": "labels", "label": -1}, ["label is -1"], "/label"),
        ("/elbo", {"x": X, "model": "labels", "label": 1.5}, ["label must be integers"], "/label"),
        ("/elbo", {"x": X, "model": "labels", "label": "cat"}, ["label must be"], "/label"),
        ("/elbo", {"x": X, "model": "labels", "label": True}, ["label must be"], "/label"),
        ("/elbo", {"x": X, "model": "labels", "label": [0, 1]}, ["label has shape [2]", "(1,)"], "/label"),
        ("/sample", {"model": "labels", "label": [0, 1], "num_samples": 3}, ["shape [2]", "(3,)"], "/label"),
        ("/sample", {"model": "labels", "label": []}, ["label"], "/label"),
        ("/sample", {"model": "labels", "label": [0] * 5001}, ["the limit is 5000"], "/num_samples"),
        ("/elbo", {"x": X * 5000, "model": "labels", "num_samples": 70}, ["1050000 row-draws", "split", "all 3"], ""),
    ],
)
def test_values_that_cannot_be_used_are_named(
    http: httpx.Client, path: str, body: dict[str, Any], words: list[str], pointer: str
) -> None:
    problem = check(http.post(path, json=body), 422, *words)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_its_row(http: httpx.Client, value: float) -> None:
    x = np.zeros((7, 8, 8), np.float32)
    x[6, 7, 7] = value
    body = save_safetensors({"x": x}, metadata={"request": "{}"})
    response = http.post("/elbo", content=body, headers={"Content-Type": "application/x-safetensors"})
    check(response, 422, f"x[6] has value {value:g}")
    response = http.post("/elbo", content=json.dumps({"x": row_with(value)}), headers=JSON)
    check(response, 422, "NaN or Infinity")


def test_unknown_models_versions_and_aliases_suggest_close_names(http: httpx.Client) -> None:
    check(http.post("/sample", json={"model": "levelz"}), 404, "levelz", "levels")
    check(http.post("/sample", json={"model": "levels@7"}), 404, "version 7")
    check(http.post("/sample", json={"model": "levels@lates"}), 404, "latest")
    check(http.get("/models/levelz"), 404, "levels")
    check(http.get("/models/levels/versions/7"), 404, "version 7")
    check(http.get("/models/levels/versions/1/reference"), 404, "without reference rows")


def test_unknown_paths_methods_types_and_numbers_are_problems_too(http: httpx.Client) -> None:
    check(http.get("/nothing"), 404)
    assert "POST" in check_headers(http.get("/elbo"), 405)["allow"]
    check(http.post("/elbo", content=b"x=1", headers={"Content-Type": "text/plain"}), 415, "text/plain")
    check(http.post("/elbo", json={"x": X}, headers={"Accept": "text/html"}), 406, "application/json")
    check(http.get("/models/levels/versions/one"), 422)


def check_headers(response: httpx.Response, status: int) -> httpx.Headers:
    check(response, status)
    return response.headers


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 5000])
def test_a_body_that_is_no_json_object_is_malformed(http: httpx.Client, body: bytes) -> None:
    check(http.post("/elbo", content=body, headers=JSON), 400)


def test_a_truncated_safetensors_body_is_malformed(http: httpx.Client) -> None:
    body = save_safetensors({"x": np.zeros((2, 8, 8), np.uint8)}, metadata={"request": "{}"})
    for cut in (0, 7, 8, 60, len(body) - 1):
        response = http.post("/elbo", content=body[:cut], headers={"Content-Type": "application/x-safetensors"})
        check(response, 400, "safetensors")


def test_too_many_rows_are_refused_with_the_limit(http: httpx.Client) -> None:
    body = save_safetensors({"x": np.zeros((5001, 8, 8), np.uint8)}, metadata={"request": "{}"})
    response = http.post("/elbo", content=body, headers={"Content-Type": "application/x-safetensors"})
    check(response, 422, "5001 rows", "limit is 5000")


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = "POST /elbo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4000001\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_over_the_limit_is_refused_while_it_streams(http: httpx.Client) -> None:
    response = http.post("/elbo", content=(b" " * 100_000 for _ in range(60)), headers=JSON)
    check(response, 413, "4000000 bytes")


def test_a_deadline_that_passes_drops_the_work(http: httpx.Client) -> None:
    x = np.zeros((1000, 8, 8), int).tolist()
    body = {"x": x, "num_samples": 1000}
    check(http.post("/elbo", json=body, headers={"Request-Timeout": "0.05"}), 504, "0.05 s")
    check(http.post("/elbo", json={"x": X}, headers={"Request-Timeout": "soon"}), 422, "Request-Timeout")
    # A million row-draws would take half a minute: the next answer shows that they were dropped.
    assert http.post("/elbo", json={"x": X}, headers={"Request-Timeout": "10"}).status_code == 200


def test_the_server_is_healthy_after_all_that(http: httpx.Client) -> None:
    assert http.get("/healthz").json()["status"] == "ok"
    ready = http.get("/readyz").json()
    assert ready["ready"] is True
    assert ready["model"] == "levels@1"
    assert ready["problems"] == []
