"""Errors on the wire: RFC 9457 `application/problem+json`, from one table."""

import logging
import math
import re
from http import HTTPMethod, HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from elbod.errors import MAX_PLACES, STATUS, Draining, ElbodError, InvalidInput, Place, QueueFull, Unauthorized, shown

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"

# Bytes of JSON of a whole message, and of one place's pointer and message: a problem stays below 16 kB.
_MAX_DETAIL, _MAX_POINTER, _MAX_PLACE = 4000, 200, 600


def problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    places: tuple[Place, ...] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem document; `type` is stable and names the kind of error, `instance` the request."""
    slug = title.lower().replace(" ", "-")
    request.state.problem = slug
    body: dict[str, Any] = {
        "type": f"urn:elbod:problem:{slug}",
        "title": title,
        "status": status,
        "detail": _cut(detail, _MAX_DETAIL),
        "instance": f"urn:elbod:request:{getattr(request.state, 'request_id', '')}",
    }
    if places:
        body["errors"] = [
            {"pointer": _cut(place.pointer, _MAX_POINTER), "detail": _cut(place.detail, _MAX_PLACE)}
            for place in places[:MAX_PLACES]
        ]
    return Response(orjson.dumps(body), status, headers, PROBLEM_TYPE)


def _cut(text: str, limit: int) -> str:
    """The text, or as much of its beginning as has no more than `limit` bytes in JSON."""
    cut = shown(text, limit)
    # No character has more than six.
    return cut if len(orjson.dumps(cut)) <= limit + 2 else shown(text, limit // 6)


def install(app: FastAPI) -> None:
    """Every error of every route leaves as a problem document."""
    app.add_exception_handler(ElbodError, _elbod_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)


async def _elbod_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ElbodError)
    return respond(request, error)


def respond(request: Request, error: ElbodError) -> Response:
    """The error as a problem document, with its status and headers."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    places = error.places if isinstance(error, InvalidInput) else ()
    headers = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if status >= 500 and not isinstance(error, Draining):
        logger.error("%s: %s", type(error).__name__, error)
    return problem(request, status, _title(type(error).__name__), str(error), places, headers)


def _title(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).capitalize()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title, headers = HTTPStatus(error.status_code).phrase, dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return problem(request, error.status_code, title, str(error.detail), headers=headers)


def _methods(request: Request) -> list[str]:
    """The methods that the path allows: several routes may share a path."""
    scopes = ({**request.scope, "method": method.value} for method in HTTPMethod)
    routes = request.app.router.routes
    return [s["method"] for s in scopes if any(route.matches(s)[0] is Match.FULL for route in routes)]


async def _parameter_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    places = (Place.named(tuple(e["loc"][1:]), str(e["msg"]), str(e["loc"][0])) for e in error.errors())
    return respond(request, InvalidInput(*places))


def bug(request: Request) -> Response:
    """What a caller hears of a bug: nothing internal, and the id that finds the traceback in the log."""
    return problem(request, 500, "Internal error", "a bug in the server: its log has this request's id and the details")
