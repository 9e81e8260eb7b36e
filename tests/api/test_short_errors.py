"""Whatever is wrong with a request, its answer says so in few words."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors

from elbod.api import wire
from elbod.api.problems import respond
from elbod.errors import ElbodError
from elbod.requests.verbs import ElboRequest, EncodeRequest, SampleRequest, VerbRequest, validated

LIMIT = 16 * 1024
X = [[[0] * 8] * 8]

# Characters that take one, two, four and six bytes in JSON.
texts = st.builds(
    lambda char, count: char * count, st.sampled_from(["a", '"', "\U0001f600", "\x01"]), st.integers(0, 900)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
names = texts | st.sampled_from([*ElboRequest.model_fields, "x", "label"])
requests = st.dictionaries(names, values, max_size=80)


@given(requests, st.sampled_from([SampleRequest, EncodeRequest, ElboRequest]))
def test_an_error_is_short_whatever_the_body(request: dict[str, Any], kind: type[VerbRequest]) -> None:
    try:
        fields, _ = wire.decode_json(json.dumps(request).encode(), ("x", "label"))
        validated(kind, fields)
        return
    except ElbodError as error:
        refused = error
    answer = respond(Request({"type": "http", "state": {"request_id": "r" * 128}}), refused)
    assert 400 <= answer.status_code < 500
    assert len(answer.body) <= LIMIT
    assert len(json.loads(answer.body).get("errors", [])) <= 10


@pytest.mark.parametrize(
    "fields",
    [
        {"x": X, "include": [1] * 300_000},
        {"x": X, "include": ["\x01" * 900] * 16},
        {"x": X, "include": [{"a": X}, [X]]},
        {f"{i}" + "\x01" * 800: 1 for i in range(60)},
        {f"key{i}": i for i in range(150_000)},
        {"x": X, "seed": {f"key{i}": i for i in range(3000)}},
        {"x": X, "model": "m" * 1_000_000},
        {"x": X, "model": "m" * 60_000},
        {"x": X, "model": "\x01" * 130},
        {"x": X, "encoding": "e" * 60_000},
        {"x": X, "label": [1] * 300_000},
        {"x": {"dtype": "d" * 60_000, "shape": [1], "data": ""}},
        {"x": {"dtype": "uint8", "shape": [1] * 10_000, "data": ""}},
    ],
)
def test_a_server_refuses_long_fields_in_few_words(http: httpx.Client, fields: dict[str, Any]) -> None:
    response = http.post("/elbo", json=fields)
    assert response.status_code in (404, 422), response.text
    assert len(response.content) <= LIMIT


def test_ten_errors_are_named_and_the_others_counted(http: httpx.Client) -> None:
    problem = http.post("/elbo", json={f"key{i}": i for i in range(60)}).json()
    assert len(problem["errors"]) == 10
    assert problem["detail"].endswith("; and 50 more")
    query = {f"key{i}": str(i) for i in range(60)}
    assert http.get("/sample", params=query).json()["detail"].endswith("; and 50 more")


def test_long_names_of_tensors_parameters_and_media_types_are_cut(http: httpx.Client) -> None:
    tensors = {"Content-Type": "application/x-safetensors"}
    for name in ("t" * 5000, "x"):
        body = save_safetensors(
            {name: np.zeros((1, 8, 8), np.uint8)}, metadata={"request": '{"k' + "k" * 20_000 + '":1}'}
        )
        response = http.post("/elbo", content=body, headers=tensors)
        assert (response.status_code, len(response.content) <= LIMIT) == (422, True)
    for response, status in (
        (http.get("/sample", params={"k" * 7_000: "1", "num_samples": "n" * 7_000}), 422),
        (http.get(f"/models/{'m' * 15_000}"), 422),
        (http.post("/elbo", json={"x": X}, headers={"Accept": "a" * 20_000}), 406),
        (http.post("/elbo", content=b"{}", headers={"Content-Type": "c" * 20_000}), 415),
        (http.post("/elbo", json={"x": X}, headers={"Request-Timeout": "t" * 20_000}), 422),
    ):
        assert response.status_code == status
        assert len(response.content) <= LIMIT


def test_a_list_field_has_a_maximum_length(http: httpx.Client) -> None:
    response = http.post("/elbo", json={"x": X, "include": ["reconstruction_map"] * 9})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/include"
    assert http.post("/elbo", json={"x": X, "include": ["reconstruction_map"] * 8}).status_code == 200
