"""What is published and what is loaded, and the service's own state."""

import logging
from typing import Annotated, Any, Literal

import msgspec
import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse
from numpy.typing import NDArray
from pydantic import BeforeValidator

from elbod import __version__
from elbod.api import document, parameters, schemas, wire
from elbod.api.parameters import Name, Version
from elbod.api.service import Service, service_of
from elbod.engine.description import Calibration, largest_up_to
from elbod.engine.loading import parse_calibration, parse_reference
from elbod.errors import DamagedStore, InvalidInput, NotReady, UnknownModel
from elbod.generators.checkpoint import GIVEN_LABEL, MARGINAL
from elbod.requests.levels import default_level, passed
from elbod_store import Conflict, Corrupt, InvalidName, Manifest, ModelStore, NotFound, Retired, StoreError, Unsupported

logger = logging.getLogger(__name__)
router = APIRouter()

# Of the routes that ask the store.
_STORE = document.problems(404, 422, 502, 503, 504)
_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}}
}
_TENSORS = {wire.SAFETENSORS_TYPE: {"schema": {"type": "string", "format": "binary"}}}


@router.get("/models", response_model=schemas.Models, responses=document.problems(502, 503, 504))
async def models(request: Request) -> dict[str, Any]:
    """Every model with its live versions, aliases, and what is loaded."""
    service = service_of(request)

    def listed() -> dict[str, Any]:
        return {"models": [_model(service, name) for name in ask_store(service.store.names)]}

    return await service.ask_store(request, listed)


@router.get("/models/{name}", response_model=schemas.ModelWithHistory, responses=_STORE)
async def model(request: Request, name: Name) -> dict[str, Any]:
    """One model: versions, aliases with their history, what is loaded."""
    service = service_of(request)
    return await service.ask_store(request, _model_with_history, service, name)


@router.get(
    "/models/{name}/versions/{version}",
    responses=_STORE | {200: {"content": {wire.JSON_TYPE: {"schema": {"$ref": "#/components/schemas/Manifest"}}}}},
)
async def version(request: Request, name: Name, version: Version) -> Response:
    """The manifest: family, spec, likelihood, digests, metrics, training record and card."""
    service = service_of(request)
    manifest = await service.ask_store(request, ask_store, service.store.manifest, name, version)
    return Response(msgspec.json.encode(manifest), media_type=wire.JSON_TYPE)


@router.get(
    "/models/{name}/versions/{version}/reference",
    responses=_STORE | {200: {"model": schemas.ReferenceResponse, "content": _TENSORS}},
)
async def reference(request: Request, name: Name, version: Version) -> Response:
    """Held-out rows with the scores that the worker published."""
    service = service_of(request)
    return await service.ask_store(request, _reference, request, service.store, name, version)


@router.get(
    "/models/{name}/versions/{version}/calibration",
    dependencies=[Depends(parameters.given_once)],
    responses=_STORE | {200: {"model": schemas.CalibrationResponse, "content": _TENSORS}},
)
async def calibration(
    request: Request,
    name: Name,
    version: Version,
    num_samples: Annotated[
        int,
        Query(ge=1, description="draws a row; the most that were scored, up to this"),
        BeforeValidator(parameters.plain_integer),
    ] = 16,
    conditional_on: Annotated[
        Literal["label"] | None,
        Query(description="label: scores of log p(x|y), which have a distribution of their own"),
    ] = None,
) -> Response:
    """Scores of held-out rows, among which `/elbo` finds a row's `quantile` and `typicality`."""
    service = service_of(request)
    manifest: Manifest = await service.ask_store(request, ask_store, service.store.manifest, name, version)

    def read() -> dict[str, dict[int, Calibration]]:
        if manifest.calibration is None:
            return {}
        return parse_calibration(ask_store(service.store.read, manifest.calibration), manifest)

    kind = GIVEN_LABEL if conditional_on else MARGINAL
    found = largest_up_to((await service.ask_store(request, read)).get(kind, {}), num_samples)
    if found is None:
        given = " given a label" if conditional_on else ""
        raise UnknownModel(f"{name}@{version} was published without calibration scores{given}")
    fields = {
        "model": {"name": name, "version": version, "digest": manifest.digest},
        "units": "nats",
        "conditional_on": conditional_on,
        "binarization": manifest.binarization,
        "num_samples": found.num_samples,
    }
    return _tensors(request, fields, {"scores": found.scores})


@router.get(
    "/models/{name}/versions/{version}/levels",
    dependencies=[Depends(parameters.given_once)],
    response_model=schemas.LevelsResponse,
    responses=_STORE,
)
async def levels(
    request: Request,
    name: Name,
    version: Version,
    num_steps: Annotated[
        int | None,
        Query(ge=1, description="passes of a draw; all that the model has if absent"),
        BeforeValidator(parameters.plain_integer),
    ] = None,
) -> dict[str, Any]:
    """Where the draws of a version stop on their way from noise to x. Loads the version."""
    model = (await service_of(request).resident(request, f"{name}@{version}")).description
    stops, known = passed(model, num_steps), model.levels
    if known is None:
        return {"model": model.identity, "levels": None, "log_snr": None, "default_level": None, "null_label": False}
    return {
        "model": model.identity,
        "levels": stops,
        "log_snr": known.log_snr[list(stops)].tolist(),
        "default_level": default_level(known, stops),
        "null_label": model.has_null_label,
    }


def _reference(request: Request, store: ModelStore, name: str, version: int) -> Response:
    manifest: Manifest = ask_store(store.manifest, name, version)
    if manifest.reference is None:
        raise UnknownModel(f"{name}@{version} was published without reference rows")
    arrays = parse_reference(ask_store(store.read, manifest.reference), manifest)
    fields = {"model": {"name": name, "version": version, "digest": manifest.digest}}
    return _tensors(request, fields, arrays)


def _tensors(request: Request, fields: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Response:
    """Fields and arrays in the media type that was asked for."""
    media = wire.best_media_type(request.headers.get("accept"), (wire.JSON_TYPE, wire.SAFETENSORS_TYPE))
    if media == wire.SAFETENSORS_TYPE:
        return Response(wire.encode_safetensors(fields, arrays), media_type=media)
    return Response(wire.encode_json(fields, arrays, as_base64=False), media_type=wire.JSON_TYPE)


# Health is told by the event loop alone: without a thread, a lock or the store, whatever those are busy with.


@router.get("/healthz", responses=document.problems() | document.states(schemas.Health, 200, 500))
async def healthz(request: Request) -> Response:
    """200 while the threads that compute and poll live, and the compute thread is not stuck."""
    service = service_of(request)
    healthy = service.healthy
    status = "ok" if healthy else "stuck" if service.alive else "dead"
    body = {"status": status, "busy_seconds": round(service.engine.busy_seconds(), 3)}
    return Response(orjson.dumps(body), 200 if healthy else 500, media_type=wire.JSON_TYPE)


@router.get("/readyz", responses=document.problems() | document.states(schemas.Readiness, 200, 503))
async def readyz(request: Request) -> Response:
    """200 once the default model is loaded, verified and warm, until the server drains; problems either way.

    A server of several models without a default is ready when it knows them. On a server with keys, callers without
    one hear how many problems there are, and not which.
    """
    service = service_of(request)
    default, problems = service.residents.default, service.problems
    ready = service.ready
    body: dict[str, Any] = {
        "ready": ready,
        "draining": service.draining,
        "model": None if default is None else str(default),
    }
    if service.settings.keys_file is None or hasattr(request.state, "key"):
        body["loaded"] = sorted(str(resident) for resident in service.residents.loaded())
        body["problems"] = problems
    else:
        # They name the store, its files and their digests.
        told = f"number of problems: {len(problems)}. The log says which, and so does this with a key"
        body["problems"] = [told] if problems else []
    return Response(orjson.dumps(body), 200 if ready else 503, media_type=wire.JSON_TYPE)


@router.get("/metrics", response_class=PlainTextResponse, responses=_METRICS | document.problems())
async def metrics(request: Request) -> Response:
    """Prometheus text, or OpenMetrics if `Accept` says so; all workers of this server together."""
    text, media_type = await service_of(request).metrics.text(request.headers.get("accept", ""))
    return Response(text, media_type=media_type)


@router.get("/version", responses=document.problems())
async def version_of_elbod() -> dict[str, str]:
    """The version of this server."""
    return {"name": "elbod", "version": __version__}


def _model_with_history(service: Service, name: str) -> dict[str, Any]:
    found = _model(service, name)
    found["history"] = {
        alias: [
            {"entry": e.number, "version": e.version, "who": e.who, "when": e.when.isoformat(), "why": e.why}
            for e in ask_store(service.store.history, name, alias)
        ]
        for alias in found["aliases"]
    }
    return found


def _model(service: Service, name: str) -> dict[str, Any]:
    loaded = [resident.description for resident in service.residents.loaded() if resident.manifest.name == name]
    return {
        "name": name,
        "versions": ask_store(service.store.versions, name),
        "aliases": ask_store(service.store.aliases, name),
        "loaded": [
            {"version": m.version, "digest": m.digest, "reproducible": m.reproducible, "fingerprint": m.fingerprint}
            for m in sorted(loaded, key=lambda model: model.version)
        ],
    }


def ask_store(method: Any, *arguments: Any, **named: Any) -> Any:
    """The store's answer, its errors as ours, but Conflict as it is: its caller knows what was wanted."""
    try:
        return method(*arguments, **named)
    except InvalidName as error:
        raise InvalidInput.at("", str(error)) from error
    except (NotFound, Retired) as error:
        raise UnknownModel(str(error)) from error
    except (Corrupt, Unsupported) as error:
        logger.error("%s", error)
        raise DamagedStore("this part of the model store cannot be read: the log says why") from error
    except Conflict:
        raise
    except StoreError as error:
        logger.error("the model store does not answer: %s", error)
        raise NotReady("the model store does not answer: try again later") from error
