"""GET /sample: samples as a link, which pages can show and caches can keep."""

import hashlib
import time
from typing import Annotated, Any, Literal

import numpy as np
import orjson
import PIL
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ConfigDict, Field, field_validator

from elbod.api import document, parameters, routes, schemas, wire
from elbod.api.service import service_of
from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Job
from elbod.requests.verbs import SampleRequest
from elbod_store import parse_reference

router = APIRouter()

# Whoever pins version and seed has asked for bytes that never change.
_IMMUTABLE = "max-age=31536000, immutable"


class SampleLink(SampleRequest):
    """POST /sample's fields in a link; `label` is one class for all rows, and `include` one name."""

    model_config = ConfigDict(strict=False, extra="forbid")

    label: int | None = Field(None, ge=0, lt=2**31, description="class number of a conditional model")
    # A parameter is given once: two names would be two parameters.
    include: list[Literal["trajectory"]] = Field(
        default_factory=list, max_length=1, description="trajectory: E[x|z] on the way down, of models with levels"
    )
    format: Literal["json", "png"] = Field("json", description="png: one grid of pictures")

    _integers = field_validator(
        "seed", "first_index", "num_samples", "label", "num_steps", "level", "trajectory_steps", mode="before"
    )(parameters.plain_integer)
    _numbers = field_validator("temperature", "guidance", mode="before")(parameters.plain_number)


_CACHING = {name: {"schema": {"type": "string"}} for name in ("ETag", "Cache-Control")}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.SampleResponse,
        "content": {wire.PNG_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        "headers": routes.TIMING_HEADERS | _CACHING,
    },
    304: {
        "description": "the caller has these bytes: its `If-None-Match` holds their `ETag`",
        "headers": _CACHING,
    },
}
_IF_NONE_MATCH = {"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}}


@router.get(
    "/sample",
    dependencies=[Depends(parameters.given_once)],
    responses=_RESPONSES | document.problems(404, 406, 422, 429, 502, 503, 504),
    openapi_extra={"parameters": [document.REQUEST_TIMEOUT, _IF_NONE_MATCH]},
)
async def sample(request: Request, link: Annotated[SampleLink, Query()]) -> Response:
    """Draw x ~ p(x|z), z from the prior, for a link or a page.

    With a seed the answer has an `ETag`; with a seed and a version (`name@3`) it never changes.
    """
    started, service = time.perf_counter(), service_of(request)
    label = None if link.label is None else np.asarray(link.label)
    resident = await service.resident(request, link.model)
    model = resident.description
    job = link.job({"label": label}, model, service.limits)
    headers = {"Cache-Control": "no-store"}
    if link.seed is not None and model.reproducible:
        headers = {"ETag": _etag(job, model, link), "Cache-Control": _caching(link.model)}
        if _matches(request.headers.get("if-none-match"), headers["ETag"]):
            return Response(status_code=304, headers=headers)
    timing = routes.Timing(started, time.perf_counter())
    result = await service.run(job, resident, request)
    media = wire.PNG_TYPE if link.format == "png" else wire.JSON_TYPE
    response = await routes.respond(request, job, result, model, media, link.encoding, timing)
    response.headers.update(headers)
    return response


def _etag(job: Job, model: ModelDescription, link: SampleLink) -> str:
    """A strong validator: everything that decides the bytes."""
    decides = [model.digest, model.name, model.version, model.fingerprint, PIL.__version__]
    decides += [job.seed, job.first_index, job.rows, job.temperature, job.output, link.label]
    decides += [job.num_steps, job.level, job.sampler, job.guidance, job.trajectory]
    return f'"{hashlib.sha256(orjson.dumps([*decides, link.format, link.encoding])).hexdigest()[:32]}"'


def _caching(reference: str | None) -> str:
    pinned = reference is not None and parse_reference(reference).version is not None
    return _IMMUTABLE if pinned else "no-cache"


def _matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110, section 13.1.2: by weak comparison."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or tags == ["*"]
