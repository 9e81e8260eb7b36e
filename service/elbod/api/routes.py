"""The three verbs: parse, check, submit, answer."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from elbod.api import document, schemas, wire
from elbod.api.blocks import Pause, no_pause
from elbod.api.images import png_grid
from elbod.api.inputs import check_count, check_labels, check_latents, check_rows
from elbod.api.problems import invalid_fields
from elbod.api.service import service_of
from elbod.engine import reductions
from elbod.engine.jobs import Encodings, Job, Result, Samples, Scores, Verb, marginal_labels
from elbod.engine.loading import Resident
from elbod.engine.reductions import MAY_BE_UNDEFINED
from elbod.errors import InvalidInput, NotAcceptable, UnsupportedMediaType, shown
from elbod.generators.bounds import summarize
from elbod.generators.noise import MAX_INDEX
from elbod.settings import Settings


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

Fields = TypeVar("Fields", bound=schemas.Request)
Arrays = dict[str, NDArray[Any]]

_DATA_TYPES = (wire.JSON_TYPE, wire.SAFETENSORS_TYPE)
# A safetensors body takes as long to decode as JSON of a fraction of its length: tensors are views of it.
_TENSORS_PER_JSON = 16
TIMING_HEADERS: dict[str, Any] = {
    "Server-Timing": {"description": "parse, queue, compute, encode: milliseconds", "schema": {"type": "string"}}
}
# What a pixel costs: it is written several times, and deflated.
_PNG_BYTES = 64
_X = "(n, *event_shape) in data units"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response before it is written: fields and arrays by name, `posterior.mean` nested under `posterior`."""

    fields: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any] | None]


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


def _documented(
    request: type[schemas.Request],
    response: type[BaseModel],
    *media: str,
    required: tuple[str, ...] = (),
    **arrays: str,
) -> dict[str, Any]:
    """Route arguments that describe a body which `wire` reads instead of pydantic."""
    tensors = {"type": "string", "format": "binary", "description": "tensors; all else as JSON in __metadata__"}
    content = {
        wire.JSON_TYPE: {"schema": schemas.with_arrays(request, required, **arrays)},
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


@router.post(
    "/sample",
    **_documented(
        schemas.SampleRequest, schemas.SampleResponse, wire.PNG_TYPE, x=f"rows to vary, {_X}", z="(n, latent_dim)"
    ),
)
async def sample(request: Request) -> Response:
    """Draw x ~ p(x|z), with z from the prior, given, or from q(z|x) of a given x."""
    started, service = time.perf_counter(), service_of(request)
    media = _media_type(request, (*_DATA_TYPES, wire.PNG_TYPE))
    fields, arrays = await _parse(request, schemas.SampleRequest, ("x", "z", "label"))
    resident = await service.resident(request, fields.model)
    job = await service.in_blocks(
        request,
        _size(arrays),
        lambda pause: sample_job(fields, arrays, resident, service.settings.max_rows, pause),
    )
    parsed = time.perf_counter()
    result = await service.run(job, resident, request)
    return await sample_response(request, job, resident, result, media, Timing(started, parsed), fields.encoding)


def sample_job(
    fields: schemas.SampleRequest, arrays: Arrays, resident: Resident, max_rows: int, pause: Pause = no_pause
) -> Job:
    """What a request for samples asks of the engine. Raises InvalidInput."""
    x = check_rows(resident, arrays["x"], binarize=None, max_rows=max_rows, pause=pause) if "x" in arrays else None
    z = check_latents(resident, arrays["z"], max_rows=max_rows) if "z" in arrays else None
    if x is not None and z is not None:
        raise InvalidInput.at("/z", "both z and x are given: z says what to decode, x what to vary")
    if (x is not None or z is not None) and "num_samples" in fields.model_fields_set:
        raise InvalidInput.at("/num_samples", "num_samples is for draws from the prior: z and x give one output a row")
    if z is not None and fields.temperature != 1:
        raise InvalidInput.at("/temperature", "temperature scales the draw of z: it means nothing with a given z")
    # What has one entry a row says how many rows there are.
    counted = [array for array in (x, z) if array is not None]
    asked = arrays.get("label")
    if asked is not None and asked.ndim and len(asked) and "num_samples" not in fields.model_fields_set:
        counted.append(asked)
    rows = len(counted[0]) if counted else fields.num_samples
    check_count("num_samples", rows, max_rows)
    return Job(
        verb=Verb.SAMPLE,
        rows=rows,
        seed=_seed(fields),
        first_index=_first_index(fields, rows),
        x=x,
        z=z,
        label=check_labels(resident, asked, rows, required=True),
        temperature=fields.temperature,
        output=fields.output,
    )


async def sample_response(
    request: Request, job: Job, resident: Resident, result: Result, media: str, timing: Timing, encoding: str
) -> Response:
    """Samples in the media type that was asked for. Raises NotAcceptable for pictures of what is none."""
    assert isinstance(result.value, Samples)
    x = result.value.x
    if media == wire.PNG_TYPE:
        service, computed = service_of(request), time.perf_counter()
        likelihood = resident.generator.likelihood
        png = await service.in_blocks(request, _PNG_BYTES * x.size, lambda pause: png_grid(x, likelihood, pause))
        seconds = time.perf_counter() - computed
        service.metrics.encoded(job, seconds)
        headers = {f"X-Elbod-{name.title()}": str(value) for name, value in _identity(job, resident).items()}
        return Response(png, media_type=wire.PNG_TYPE, headers=headers | timing.header(result, seconds))
    answer = Answer(_common(job, resident), {"x": x, "z": result.value.z})
    return await _respond(request, job, answer, media, encoding, result, timing)


@router.post(
    "/encode", **_documented(schemas.EncodeRequest, schemas.EncodeResponse, required=("x",), x=f"rows to encode, {_X}")
)
async def encode(request: Request) -> Response:
    """Parameters of q(z|x), optionally with draws."""
    started, service = time.perf_counter(), service_of(request)
    media = _media_type(request, _DATA_TYPES)
    fields, arrays = await _parse(request, schemas.EncodeRequest, ("x", "label"))
    resident = await service.resident(request, fields.model)
    job = await service.in_blocks(
        request, _size(arrays), lambda pause: _encode_job(fields, arrays, resident, service.settings, pause)
    )
    parsed = time.perf_counter()
    result = await service.run(job, resident, request)
    value = result.value
    assert isinstance(value, Encodings)
    posterior = {**value.parameters, **resident.posterior_shared}
    answer = Answer(
        _common(job, resident)
        | {"posterior.family": value.family, "posterior.closed_form": resident.posterior_closed_form},
        {f"posterior.{name}": array for name, array in posterior.items()}
        | {"z": value.z, "kl": value.kl, "kl_per_dimension": value.kl_per_dimension, "log_q": value.log_q},
    )
    return await _respond(request, job, answer, media, fields.encoding, result, Timing(started, parsed))


def _encode_job(
    fields: schemas.EncodeRequest, arrays: Arrays, resident: Resident, settings: Settings, pause: Pause
) -> Job:
    x = check_rows(resident, arrays.get("x"), binarize=fields.binarize, max_rows=settings.max_rows, pause=pause)
    label = check_labels(resident, arrays.get("label"), len(x), required=True)
    check_count("num_samples", fields.num_samples, settings.max_num_samples)
    return Job(
        verb=Verb.ENCODE,
        rows=len(x),
        seed=_seed(fields),
        first_index=_first_index(fields, len(x)),
        x=x,
        label=label,
        num_samples=fields.num_samples,
        binarize=fields.binarize,
    )


@router.post(
    "/elbo", **_documented(schemas.ElboRequest, schemas.ElboResponse, required=("x",), x=f"rows to score, {_X}")
)
async def elbo(request: Request) -> Response:
    """The evidence lower bound of each row, with its parts, its error and tighter bounds.

    Given a label, a conditional model bounds log p(x|y); without one log p(x), the marginal over its labels.
    """
    started, service = time.perf_counter(), service_of(request)
    media = _media_type(request, _DATA_TYPES)
    fields, arrays = await _parse(request, schemas.ElboRequest, ("x", "label"))
    resident = await service.resident(request, fields.model)
    job = await service.in_blocks(
        request, _size(arrays), lambda pause: _elbo_job(fields, arrays, resident, service.settings, pause)
    )
    parsed = time.perf_counter()
    result = await service.run(job, resident, request)
    assert isinstance(result.value, Scores)
    answer = _scored(job, resident, result.value)
    return await _respond(request, job, answer, media, fields.encoding, result, Timing(started, parsed))


def _elbo_job(fields: schemas.ElboRequest, arrays: Arrays, resident: Resident, settings: Settings, pause: Pause) -> Job:
    x = check_rows(resident, arrays.get("x"), binarize=fields.binarize, max_rows=settings.max_rows, pause=pause)
    label = check_labels(resident, arrays.get("label"), len(x), required=False)
    if fields.target_standard_error is not None and "num_samples" in fields.model_fields_set:
        raise InvalidInput.at("/num_samples", "num_samples is what target_standard_error decides: give one of them")
    check_count("num_samples", fields.num_samples, settings.max_num_samples)
    check_count("num_importance_samples", fields.num_importance_samples, settings.max_importance_samples)
    return Job(
        verb=Verb.ELBO,
        rows=len(x),
        seed=_seed(fields),
        first_index=_first_index(fields, len(x)),
        x=x,
        label=label,
        marginal_labels=marginal_labels(resident.generator, label),
        num_samples=fields.num_samples if fields.target_standard_error is None else settings.max_num_samples,
        target_standard_error=fields.target_standard_error,
        num_importance_samples=fields.num_importance_samples,
        binarize=fields.binarize,
        reconstruction_map="reconstruction_map" in fields.include,
    )


_COLUMNS = (
    "elbo",
    "standard_error",
    "reconstruction",
    "kl",
    "log_joint",
    "entropy",
    "bits_per_dim",
    "iwae",
    "iwae_standard_error",
    "effective_sample_size",
    "pareto_k",
    "gap",
    "gap_standard_error",
    "log_evidence",
    "quantile",
    "typicality",
    "target_met",
)


def _scored(job: Job, resident: Resident, scores: Scores) -> Answer:
    columns, likelihood = scores.columns, resident.generator.likelihood
    exact = "log_evidence" in columns
    summary = summarize(columns["elbo"], columns["standard_error"])
    fields = _common(job, resident) | {
        "summary": {
            "mean": summary.mean,
            "standard_error": _defined(summary.standard_error),
            "monte_carlo_standard_error": _defined(summary.monte_carlo_standard_error),
            "n": summary.n,
        },
        "likelihood": likelihood.name,
        "measure": likelihood.measure,
        "units": "nats",
        "event_dims": likelihood.event_dims,
        "kl_estimator": "monte_carlo" if job.marginal_labels else resident.generator.kl_estimator,
        "gap_kind": "exact" if exact else "lower" if job.num_importance_samples else None,
        "conditional_on": None if job.label is None else "label",
        "num_importance_samples": job.num_importance_samples,
        **_reference(job, resident),
    }
    # A column that is undefined for all rows is null as a whole.
    arrays = {name: columns.get(name) for name in _COLUMNS}
    for name in MAY_BE_UNDEFINED:
        if (values := arrays[name]) is not None and np.isnan(values).all():
            arrays[name] = None
    arrays["reconstruction_map"] = scores.reconstruction_map
    if job.target_standard_error is None:
        return Answer(fields | {"num_samples": job.num_samples}, arrays)
    return Answer(fields, arrays | {"num_samples": columns["num_samples"]})


def _reference(job: Job, resident: Resident) -> dict[str, Any]:
    """What quantile and typicality compare with, or why they are null."""
    used = reductions.calibration(job, resident)
    if used is not None:
        return {"reference_num_samples": used.num_samples, "reference_size": len(used.scores), "reference_reason": None}
    reason = (
        "the model was published without calibration scores"
        if not (resident.calibration if job.label is None else resident.given_label)
        else f"the model was calibrated with binarization {resident.manifest.binarization}, not {job.binarize}"
    )
    return {"reference_num_samples": None, "reference_size": None, "reference_reason": reason}


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def _media_type(request: Request, offers: Sequence[str]) -> str:
    media = wire.best_media_type(request.headers.get("accept"), offers)
    if media is None:
        raise NotAcceptable(
            f"none of {shown(request.headers['accept'])!r} can be produced: ask for {', '.join(offers)}"
        )
    return media


async def _parse(request: Request, schema: type[Fields], array_names: Sequence[str]) -> tuple[Fields, Arrays]:
    service = service_of(request)
    # Without a type it is refused: any page may make a browser send that here without being asked.
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _DATA_TYPES:
        raise UnsupportedMediaType(f"content type {shown(content_type)!r}: send {' or '.join(_DATA_TYPES)}")
    is_json = content_type == wire.JSON_TYPE
    limit = service.settings.max_json_bytes if is_json else service.settings.max_body_bytes
    body = await service.read_body(request, min(limit, service.settings.max_body_bytes))
    if is_json:
        size, decode = len(body), lambda pause: wire.decode_json(body, array_names, pause)
    else:
        size, decode = len(body) // _TENSORS_PER_JSON, lambda _: wire.decode_safetensors(body, array_names)
    fields, arrays = await service.in_blocks(request, size, decode)
    try:
        return schema.model_validate(fields), arrays
    except ValidationError as error:
        raise invalid_fields(error) from error


def _seed(fields: schemas.Request) -> int:
    return secrets.randbelow(2**53) if fields.seed is None else fields.seed


def _first_index(fields: schemas.Request, rows: int) -> int:
    if fields.first_index + rows > MAX_INDEX:
        raise InvalidInput.at("/first_index", f"the last row's index must be below 2^56: {rows} rows do not fit")
    return fields.first_index


def _identity(job: Job, resident: Resident) -> dict[str, Any]:
    return {
        "model": f"{resident.name}@{resident.version}",
        "digest": resident.digest,
        "seed": job.seed,
        "first-index": job.first_index,
        "fingerprint": resident.fingerprint,
        "reproducible": str(resident.reproducible).lower(),
    }


def _common(job: Job, resident: Resident) -> dict[str, Any]:
    return {
        "model": {"name": resident.name, "version": resident.version, "digest": resident.digest},
        "seed": job.seed,
        "first_index": job.first_index,
        "fingerprint": resident.fingerprint,
        "reproducible": resident.reproducible,
    }


async def _respond(
    request: Request, job: Job, answer: Answer, media: str, encoding: str, result: Result, timing: Timing
) -> Response:
    service, computed = service_of(request), time.perf_counter()

    def write(pause: Pause) -> bytes | memoryview:
        if media == wire.SAFETENSORS_TYPE:
            return wire.encode_safetensors(answer.fields, answer.arrays, pause)
        return wire.encode_json(answer.fields, answer.arrays, as_base64=encoding == "base64", pause=pause)

    body = await service.in_blocks(request, _size(answer.arrays), write)
    seconds = time.perf_counter() - computed
    service.metrics.encoded(job, seconds)
    return Response(body, media_type=media, headers=timing.header(result, seconds))


def _size(arrays: Mapping[str, NDArray[Any] | None]) -> int:
    return sum(array.nbytes for array in arrays.values() if array is not None)
