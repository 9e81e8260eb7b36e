"""The OpenAPI document describes what the server does."""

from typing import Any

import httpx
import pytest

from elbod.api import schemas
from elbod.requests.verbs import ElboRequest, EncodeRequest, SampleRequest
from elbod_store import ModelStore


@pytest.fixture(scope="module")
def document(server: Any) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    return document


@pytest.mark.parametrize(
    ("path", "request_model", "response_model", "body"),
    [
        ("/sample", SampleRequest, schemas.SampleResponse, {"num_samples": 2}),
        ("/encode", EncodeRequest, schemas.EncodeResponse, {"x": [[[1] * 8] * 8], "num_samples": 2}),
        ("/elbo", ElboRequest, schemas.ElboResponse, {"x": [[[1] * 8] * 8], "num_importance_samples": 30}),
    ],
)
def test_requests_and_responses_have_exactly_the_documented_fields(
    http: httpx.Client,
    document: dict[str, Any],
    path: str,
    request_model: type[Any],
    response_model: type[Any],
    body: dict[str, Any],
) -> None:
    operation = document["paths"][path]["post"]
    documented = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert set(documented) >= set(request_model.model_fields) | ({"x"} if "x" in body else set())
    assert all("description" in field or "$ref" in field for field in documented.values())
    answer = http.post(path, json=body).json()
    response_model.model_validate(answer)
    assert set(answer) == set(response_model.model_fields)
    assert set(operation["responses"]) >= {"200", "400", "404", "406", "413", "415", "422", "429", "503", "504"}


def test_every_path_of_the_contract_is_there(document: dict[str, Any]) -> None:
    assert set(document["paths"]) >= {
        "/sample",
        "/encode",
        "/elbo",
        "/models",
        "/models/{name}",
        "/models/{name}/versions/{version}",
        "/models/{name}/versions/{version}/reference",
        "/models/{name}/versions/{version}/calibration",
        "/models/{name}/versions/{version}/levels",
        "/models/{name}/aliases/{alias}",
        "/healthz",
        "/readyz",
        "/version",
    }


def test_a_problem_is_what_the_schema_says(http: httpx.Client) -> None:
    problem = http.post("/elbo", json={"x": [[1]]}).json()
    schemas.Problem.model_validate(problem)


def test_the_models_that_the_store_holds_are_listed(http: httpx.Client, served_store: ModelStore) -> None:
    body = http.get("/models").json()
    assert [model["name"] for model in body["models"]] == sorted(served_store.names())
    model = http.get("/models/levels").json()
    assert model["versions"] == [1]
    assert model["aliases"] == {}
    assert model["loaded"][0]["reproducible"] is True
    manifest = http.get("/models/levels/versions/1").json()
    assert (manifest["family"], manifest["levels"], manifest["event_shape"]) == ("vae", 17, [8, 8])
