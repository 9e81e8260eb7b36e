"""The OpenAPI document: what FastAPI reads from the routes, and what it cannot know."""

import copy
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from elbod.api import schemas
from elbod.api.problems import PROBLEM_TYPE
from elbod.api.security import needed_scopes
from elbod.settings import Settings
from elbod_store import Manifest

_Node = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PROBLEM = {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}
# Malformed HTTP or a Host header that is not this server's, a slow or long head, a bug.
_EVERYWHERE = (400, 408, 414, 431, 500)
_KEYS = (401, 403)

_REQUEST_ID = {"X-Request-Id": {"description": "finds the request in the log", "schema": {"type": "string"}}}
_HEADERS = {
    "401": {"WWW-Authenticate": {"schema": {"const": "Bearer"}}},
    "429": {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}},
}
# Parameters of the operations that wait for the engine.
REQUEST_TIMEOUT: _Node = {
    "name": "Request-Timeout",
    "in": "header",
    "required": False,
    "description": "seconds until the work is dropped and the answer is 504; at most the server's `request_timeout`",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def problems(*statuses: int) -> dict[int | str, _Node]:
    """Documented errors of a route: these and those of every route, each as a problem document."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
        for status in sorted({*_EVERYWHERE, *statuses})
    }


def states(model: type[BaseModel], *statuses: int) -> dict[int | str, _Node]:
    """Documented answers that say how the server is; as an error's status it may be a problem document, too."""
    return {
        status: {"model": model, "description": HTTPStatus(status).phrase, "content": _PROBLEM if status >= 400 else {}}
        for status in statuses
    }


def install(app: FastAPI, settings: Settings) -> None:
    """Complete the document that FastAPI makes for this application and these settings."""
    derive = app.openapi

    def openapi() -> _Node:
        if app.openapi_schema is None:
            # Parts of it are the routes' own.
            app.openapi_schema = _completed(copy.deepcopy(derive()), settings)
        document: _Node = app.openapi_schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: _Node, settings: Settings) -> _Node:
    components = document["components"]
    _, stored = msgspec.json.schema_components([Manifest], ref_template=_REF)
    _, problem = models_json_schema([(schemas.Problem, "validation")], ref_template=_REF.format(name="{model}"))
    components["schemas"] |= schemas.REQUEST_ARRAYS | problem["$defs"] | _with_anchors(stored)
    if settings.keys_file is not None:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if needed_scopes(method.upper(), path):
                operation["responses"] |= {str(status): found for status, found in problems(*_KEYS).items()}
                if settings.keys_file is not None:
                    operation["security"] = [{"key": []}]
            operation["responses"] = dict(sorted(operation["responses"].items()))
            for status, response in operation["responses"].items():
                response["headers"] = response.get("headers", {}) | _HEADERS.get(status, {}) | _REQUEST_ID
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
            _limit(path, operation, settings)
    return document


def _with_anchors(schema: Any) -> Any:
    r"""Patterns with the anchors of ECMAScript, which JSON Schema asks for, instead of Python's `\A` and `\Z`."""
    if isinstance(schema, dict):
        return {key: _with_anchors(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_with_anchors(value) for value in schema]
    return schema.replace(r"\A", "^").replace(r"\Z", "$") if isinstance(schema, str) else schema


def _without_null(schema: _Node) -> _Node:
    """The schema of a parameter that may be left out: an address has no null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    only: _Node = {key: value for key, value in schema.items() if key != "anyOf"} | kinds[0]
    return only


def _limit(path: str, operation: _Node, settings: Settings) -> None:
    """The limits that are settings, where fields and parameters have them."""
    limits = {
        "/sample": {"num_samples": settings.max_rows},
        "/encode": {"num_samples": settings.max_num_samples},
        "/elbo": {
            "num_samples": settings.max_num_samples,
            "num_importance_samples": settings.max_importance_samples,
        },
    }.get(path, {})
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    fields = body.get("properties", {}) | {
        parameter["name"]: parameter["schema"] for parameter in operation.get("parameters", ())
    }
    for name, limit in limits.items():
        fields[name]["maximum"] = limit
