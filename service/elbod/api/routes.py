"""The three verbs over HTTP: read a body, run its job, write the answer."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from elbod.api import document, schemas, wire
from elbod.api.service import Service, service_of
from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Job, Result, Samples
from elbod.errors import NotAcceptable, UnsupportedMediaType, shown
from elbod.requests.answers import Answer, answer_of
from elbod.requests.blocks import Pause
from elbod.requests.images import png_grid
from elbod.requests.verbs import ElboRequest, EncodeRequest, SampleRequest, VerbRequest, validated


class _Verb(APIRoute):
    """A route whose endpoint takes the request itself.

    FastAPI's own handler sets up parameters and dependencies for each request, and a verb has none. Errors are answered
    where those of all routes are.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **described: Any) -> None:
        super().__init__(path, endpoint, **described)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            response: Response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = answer


router = APIRouter(route_class=_Verb)

_DATA_TYPES = (wire.JSON_TYPE, wire.SAFETENSORS_TYPE)
# A safetensors body takes as long to decode as JSON of a fraction of its length: tensors are views of it.
_TENSORS_PER_JSON = 16
TIMING_HEADERS: dict[str, Any] = {
    "Server-Timing": {"description": "parse, queue, compute, encode: milliseconds", "schema": {"type": "string"}}
}
# What a pixel costs: it is written several times, and deflated.
_PNG_BYTES = 64


@dataclass(slots=True)
class Timing:
    """When a request began and when it was parsed, by `time.perf_counter`."""

    started: float
    parsed: float

    def header(self, result: Result, encode_seconds: float) -> dict[str, str]:
        """`Server-Timing`, in milliseconds."""
        phases = {
            "parse": self.parsed - self.started,
            "queue": result.queue_seconds,
            "compute": result.compute_seconds,
            "encode": encode_seconds,
        }
        return {"Server-Timing": ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in phases.items())}


def _documented(kind: type[VerbRequest], response: type[BaseModel], *media: str) -> dict[str, Any]:
    """Route arguments that describe a body which `wire` reads instead of pydantic."""
    tensors = {"type": "string", "format": "binary", "description": "tensors; all else as JSON in __metadata__"}
    content = {
        wire.JSON_TYPE: {"schema": schemas.with_arrays(kind)},
        wire.SAFETENSORS_TYPE: {"schema": tensors},
    }
    offered: dict[str, Any] = {wire.SAFETENSORS_TYPE: {"schema": tensors}}
    offered |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media}
    return {
        "openapi_extra": {
            "requestBody": {"required": True, "content": content},
            "parameters": [document.REQUEST_TIMEOUT],
        },
        "responses": {200: {"model": response, "content": offered, "headers": TIMING_HEADERS}}
        | document.problems(404, 406, 413, 415, 422, 429, 502, 503, 504),
    }


@router.post("/sample", **_documented(SampleRequest, schemas.SampleResponse, wire.PNG_TYPE))
async def sample(request: Request) -> Response:
    """Draw x ~ p(x|z), with z from the prior, given, or from q(z|x) of a given x."""
    return await _answer(request, SampleRequest, (*_DATA_TYPES, wire.PNG_TYPE))


@router.post("/encode", **_documented(EncodeRequest, schemas.EncodeResponse))
async def encode(request: Request) -> Response:
    """Parameters of q(z|x), optionally with draws."""
    return await _answer(request, EncodeRequest, _DATA_TYPES)


@router.post("/elbo", **_documented(ElboRequest, schemas.ElboResponse))
async def elbo(request: Request) -> Response:
    """The evidence lower bound of each row, with its parts, its error and tighter bounds.

    Given a label, a conditional model bounds log p(x|y); without one log p(x), the marginal over its labels.
    """
    return await _answer(request, ElboRequest, _DATA_TYPES)


async def _answer(request: Request, kind: type[VerbRequest], offers: Sequence[str]) -> Response:
    started, service = time.perf_counter(), service_of(request)
    media = _media_type(request, offers)
    asked, arrays = await _parse(request, service, kind)
    resident = await service.resident(request, asked.model)
    model = resident.description
    job = await service.in_blocks(request, _size(arrays), lambda pause: asked.job(arrays, model, service.limits, pause))
    timing = Timing(started, time.perf_counter())
    result = await service.run(job, resident, request)
    return await respond(request, job, result, model, media, asked.encoding, timing)


async def respond(
    request: Request, job: Job, result: Result, model: ModelDescription, media: str, encoding: str, timing: Timing
) -> Response:
    """The answer in the media type that was asked for. Raises NotAcceptable for pictures of what is none."""
    service, computed = service_of(request), time.perf_counter()
    headers: dict[str, str] = {}
    write: Callable[[Pause], bytes | memoryview]
    if media == wire.PNG_TYPE:
        assert isinstance(result.value, Samples)
        x, headers = result.value.x, _origin(job, model)
        size, write = _PNG_BYTES * x.size, lambda pause: png_grid(x, model.likelihood, pause)
    else:
        answer = answer_of(job, result, model)
        size, write = _size(answer.arrays), lambda pause: _written(answer, media, encoding, pause)
    body = await service.in_blocks(request, size, write)
    seconds = time.perf_counter() - computed
    service.metrics.encoded(job, seconds)
    return Response(body, media_type=media, headers=headers | timing.header(result, seconds))


def _written(answer: Answer, media: str, encoding: str, pause: Pause) -> bytes | memoryview:
    if media == wire.SAFETENSORS_TYPE:
        return wire.encode_safetensors(answer.fields, answer.arrays, pause)
    return wire.encode_json(answer.fields, answer.arrays, as_base64=encoding == "base64", pause=pause)


def _origin(job: Job, model: ModelDescription) -> dict[str, str]:
    """What an answer says of its origin, for one that has headers alone."""
    return {
        "X-Elbod-Model": str(model),
        "X-Elbod-Digest": model.digest,
        "X-Elbod-Seed": str(job.seed),
        "X-Elbod-First-Index": str(job.first_index),
        "X-Elbod-Fingerprint": model.fingerprint,
        "X-Elbod-Reproducible": str(model.reproducible).lower(),
    }


def _media_type(request: Request, offers: Sequence[str]) -> str:
    media = wire.best_media_type(request.headers.get("accept"), offers)
    if media is None:
        raise NotAcceptable(
            f"none of {shown(request.headers['accept'])!r} can be produced: ask for {', '.join(offers)}"
        )
    return media


async def _parse(
    request: Request, service: Service, kind: type[VerbRequest]
) -> tuple[VerbRequest, dict[str, NDArray[Any]]]:
    names = tuple(kind.arrays)
    # Without a type it is refused: any page may make a browser send that here without being asked.
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _DATA_TYPES:
        raise UnsupportedMediaType(f"content type {shown(content_type)!r}: send {' or '.join(_DATA_TYPES)}")
    is_json = content_type == wire.JSON_TYPE
    limit = service.settings.max_json_bytes if is_json else service.settings.max_body_bytes
    body = await service.read_body(request, min(limit, service.settings.max_body_bytes))
    if is_json:
        size, decode = len(body), lambda pause: wire.decode_json(body, names, pause)
    else:
        size, decode = len(body) // _TENSORS_PER_JSON, lambda _: wire.decode_safetensors(body, names)
    fields, arrays = await service.in_blocks(request, size, decode)
    return validated(kind, fields), arrays


def _size(arrays: Mapping[str, NDArray[Any] | None]) -> int:
    return sum(array.nbytes for array in arrays.values() if array is not None)
