"""What a server sends is what its OpenAPI document says: status, media type, headers and body."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.support import Server, bearer, issue_key, publish_kinds

PROBLEM = "application/problem+json"
ROWS = [[[1] * 8] * 8]

Document = dict[str, Any]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Document]]:
    """A server with keys and `--admin`, and its document; the client has a key of both scopes."""
    folder = tmp_path_factory.mktemp("documented")
    keys = folder / "keys.json"
    store = publish_kinds(folder / "store")
    _, key = issue_key(keys, "infer", "admin")
    flags = ("--model", "levels", "--admin", "--keys-file", str(keys))
    server = Server(store.objects.url, folder / "log", *flags, ELBOD_MAX_ROWS="7", ELBOD_MAX_NUM_SAMPLES="5")
    try:
        with httpx.Client(base_url=server.url, headers=bearer(key), timeout=60) as client:
            yield client, client.get("/openapi.json").json()
    finally:
        server.stop()


def documented(document: Document, template: str, answer: httpx.Response) -> None:
    """Fails unless the operation's part of the document describes this answer."""
    operation = document["paths"][template][answer.request.method.lower()]
    assert str(answer.status_code) in operation["responses"], (template, answer.status_code, answer.text)
    response = operation["responses"][str(answer.status_code)]
    assert "X-Request-Id" in answer.headers
    # A link without a seed has no ETag.
    assert {name.lower() for name in response["headers"]} <= set(answer.headers) | {"etag"}
    media = answer.headers.get("content-type", "").partition(";")[0]
    assert media in response.get("content", {"": {}}), (template, answer.status_code, media)
    if media.endswith("json"):
        schema = {"components": document["components"], **response["content"][media]["schema"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


GETS = [
    ("/sample", "/sample?seed=3", 200),
    ("/sample", "/sample?seed=3&encoding=base64&num_samples=7", 200),
    ("/sample", "/sample?format=png&seed=1&model=bits", 200),
    ("/sample", "/sample?format=png&model=linear", 406),
    ("/sample", "/sample?model=none", 404),
    ("/sample", "/sample?num_samples=8", 422),
    ("/models", "/models", 200),
    ("/models/{name}", "/models/levels", 200),
    ("/models/{name}", "/models/none", 404),
    ("/models/{name}", "/models/NONE", 422),
    ("/models/{name}/versions/{version}", "/models/rows/versions/1", 200),
    ("/models/{name}/versions/{version}", "/models/levels/versions/2", 404),
    ("/models/{name}/versions/{version}", "/models/levels/versions/0", 422),
    ("/models/{name}/versions/{version}/reference", "/models/rows/versions/1/reference", 200),
    ("/models/{name}/versions/{version}/reference", "/models/levels/versions/1/reference", 404),
    ("/models/{name}/versions/{version}/calibration", "/models/rows/versions/1/calibration", 200),
    ("/models/{name}/versions/{version}/calibration", "/models/bits/versions/1/calibration", 404),
    ("/models/{name}/versions/{version}/levels", "/models/chain/versions/1/levels?num_steps=2", 200),
    ("/models/{name}/versions/{version}/levels", "/models/levels/versions/1/levels", 200),
    ("/models/{name}/versions/{version}/levels", "/models/chain/versions/2/levels", 404),
    ("/models/{name}/versions/{version}/levels", "/models/chain/versions/1/levels?num_steps=5", 422),
    ("/healthz", "/healthz", 200),
    ("/readyz", "/readyz", 200),
    ("/metrics", "/metrics", 200),
    ("/version", "/version", 200),
]


@pytest.mark.parametrize(("template", "address", "status"), GETS)
@pytest.mark.parametrize("accept", ["*/*", "application/x-safetensors, */*;q=0.5", "application/openmetrics-text"])
def test_what_is_read_is_as_documented(
    guarded: tuple[httpx.Client, Document], template: str, address: str, status: int, accept: str
) -> None:
    http, document = guarded
    answer = http.get(address, headers={"Accept": accept})
    assert answer.status_code == status
    documented(document, template, answer)


POSTS: list[tuple[str, dict[str, Any], int]] = [
    ("/sample", {"json": {"x": ROWS, "temperature": 0}}, 200),
    ("/sample", {"json": {}, "headers": {"Accept": "image/png"}}, 200),
    ("/encode", {"json": {"x": ROWS}}, 200),
    ("/encode", {"json": {"x": ROWS, "num_samples": 2, "encoding": "base64"}}, 200),
    ("/encode", {"json": {"x": ROWS}, "headers": {"Accept": "application/x-safetensors"}}, 200),
    ("/elbo", {"json": {"x": ROWS, "num_importance_samples": 30, "include": ["reconstruction_map"]}}, 200),
    ("/elbo", {"json": {"x": ROWS, "target_standard_error": 0.5}}, 200),
    ("/elbo", {"json": {"model": "labels", "x": ROWS, "label": 1}}, 200),
    ("/elbo", {"json": {"model": "linear", "x": [[0.5] * 6]}}, 200),
    ("/elbo", {"content": b"{"}, 400),
    ("/elbo", {"json": {"x": ROWS, "model": "none"}}, 404),
    ("/elbo", {"json": {"x": ROWS}, "headers": {"Accept": "text/html"}}, 406),
    ("/elbo", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    ("/elbo", {"json": {"x": ROWS, "num_samples": 6}}, 422),
    ("/elbo", {"json": {"x": ROWS}, "headers": {"Request-Timeout": "1e-9"}}, 504),
]


@pytest.mark.parametrize(("path", "request_", "status"), POSTS)
def test_what_the_verbs_answer_is_as_documented(
    guarded: tuple[httpx.Client, Document], path: str, request_: dict[str, Any], status: int
) -> None:
    http, document = guarded
    request_ = dict(request_, headers={"Content-Type": "application/json"} | request_.get("headers", {}))
    answer = http.post(path, **request_)
    assert answer.status_code == status
    documented(document, path, answer)


def test_moves_of_an_alias_answer_as_documented(guarded: tuple[httpx.Client, Document]) -> None:
    http, document = guarded
    template, address = "/models/{name}/aliases/{alias}", "/models/labels/aliases/canary"
    for version, expected, status in ((1, None, 200), (2, 1, 200), (1, 1, 409), (3, 2, 404), (0, 2, 422)):
        answer = http.put(address, json={"version": version, "expected": expected, "why": "a test"})
        assert answer.status_code == status
        documented(document, template, answer)
    documented(document, template, http.delete(address))
    documented(document, "/models/{name}", http.get("/models/labels"))


def test_a_link_that_the_caller_has_already_is_304_as_documented(guarded: tuple[httpx.Client, Document]) -> None:
    http, document = guarded
    first = http.get("/sample?seed=3")
    again = http.get("/sample?seed=3", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    documented(document, "/sample", again)


def test_every_route_refuses_as_documented_without_a_key(guarded: tuple[httpx.Client, Document]) -> None:
    http, document = guarded
    for template, operations in document["paths"].items():
        for method, operation in operations.items():
            path = template.format(name="levels", version=1, alias="canary")
            answer = httpx.request(method, http.base_url.join(path))
            assert (answer.status_code == 401) == ("security" in operation)
            documented(document, template, answer)


def test_a_refused_method_names_all_that_the_path_has(guarded: tuple[httpx.Client, Document]) -> None:
    http, document = guarded
    for template, operations in document["paths"].items():
        answer = http.request("OPTIONS", template.format(name="levels", version=1, alias="canary"))
        assert answer.status_code in (403, 405)
        if answer.status_code == 405:
            assert answer.headers["Allow"].split(", ") == sorted(method.upper() for method in operations)
    assert http.request("OPTIONS", "/sample").headers["Allow"] == "GET, POST"


def test_every_documented_error_is_a_problem(guarded: tuple[httpx.Client, Document]) -> None:
    _, document = guarded
    for template, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400" and template not in ("/healthz", "/readyz"):
                    assert list(response["content"]) == [PROBLEM]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_names_numbers_and_limits_are_in_the_document(guarded: tuple[httpx.Client, Document]) -> None:
    _, document = guarded
    put = document["paths"]["/models/{name}/aliases/{alias}"]["put"]
    name, alias = (parameter["schema"] for parameter in put["parameters"])
    validator: Callable[[Any], Any] = jsonschema.Draft202012Validator
    assert [validator(name).is_valid(text) for text in ("digits", "Digits", "a" * 65, "a/b", "")] == [True] + 4 * [
        False
    ]
    assert [validator(alias).is_valid(text) for text in ("production", "latest", "1")] == [True, False, False]
    body = document["paths"]["/elbo"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    model = validator(body["properties"]["model"])
    assert all(model.is_valid(text) for text in (None, "digits", "digits@12", "digits@production"))
    assert not any(model.is_valid(text) for text in ("", "digits@", "digits@0", "digits@01", "a@b@c"))
    assert body["properties"]["num_samples"]["maximum"] == 5
    assert "x" in body["required"]
    link = {p["name"]: p["schema"] for p in document["paths"]["/sample"]["get"]["parameters"]}
    assert (link["num_samples"]["maximum"], link["seed"]["minimum"]) == (7, 0)
    version = document["paths"]["/models/{name}/versions/{version}"]["get"]["parameters"][1]["schema"]
    assert (version["minimum"], version["maximum"]) == (1, 9_999_999_999)
