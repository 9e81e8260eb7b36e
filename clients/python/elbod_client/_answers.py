"""Answers to results and errors. Fields and tensors that this version does not know are ignored."""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypedDict, TypeVar

import httpx

from elbod_client import _safetensors
from elbod_client._errors import BY_STATUS, ConnectionFailed, ElbodError, InvalidResponse, ServerError
from elbod_client._json import Fields, Malformed, parse_object
from elbod_client._results import (
    AliasMove,
    Array,
    Estimator,
    LoadedVersion,
    ModelIdentity,
    Posterior,
    Process,
    PublishedModel,
    Samples,
    Scores,
    Summary,
)
from elbod_client._retries import parse_retry_after

T = TypeVar("T")

_JSON = "application/json"
_PROBLEM = "application/problem+json"
_EXCERPT = 200


def read(reader: Callable[[httpx.Response], T], response: httpx.Response) -> T:
    """The result in an answer. Raises the ElbodError that its status says, or InvalidResponse."""
    if response.status_code != 200:
        raise error_of(response)
    try:
        return reader(response)
    except Malformed as error:
        raise InvalidResponse(
            f"the answer to {response.request.method} {response.request.url.path} is not elbod's: {error}",
            status_code=response.status_code,
            request_id=_request_id(response),
        ) from error


def error_of(response: httpx.Response) -> ElbodError:
    """The error that an answer says, with the server's own words."""
    status, problem = response.status_code, _problem(response)
    detail = problem.get("detail") if problem else None
    kind = BY_STATUS.get(status, ServerError if status >= 500 else InvalidResponse)
    return kind(
        detail if isinstance(detail, str) and detail else _describe(response),
        status_code=status,
        request_id=_request_id(response),
        problem=problem,
        retry_after=parse_retry_after(response.headers, time.time()),
    )


def no_answer(request: httpx.Request, shown_url: str, error: httpx.RequestError) -> ElbodError:
    """The error of a request that got no answer."""
    request_id = request.headers.get("x-request-id")
    reason = _reason(error)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ConnectionFailed(f"cannot connect to {shown_url}: {reason}", request_id=request_id)
    if isinstance(error, httpx.TimeoutException):
        return ConnectionFailed(f"no answer from {shown_url} in time: {reason}", request_id=request_id)
    if isinstance(error, httpx.TransportError):
        return ConnectionFailed(f"the connection to {shown_url} broke: {reason}", request_id=request_id)
    return InvalidResponse(f"{shown_url} did not answer as HTTP should: {reason}", request_id=request_id)


def cut_short(response: httpx.Response, error: httpx.RequestError) -> InvalidResponse:
    """The error of an answer that began and did not end."""
    return InvalidResponse(
        f"the answer to {response.request.method} {response.request.url.path} was cut short: {_reason(error)}",
        status_code=response.status_code,
        request_id=_request_id(response),
    )


def samples(response: httpx.Response) -> Samples:
    fields, tensors = _read_tensors(response)
    x = tensors.required("x")
    process = fields.optional_object("process")
    return Samples(
        **_origin(fields),
        x=x,
        z=tensors.required("z", rows=len(x)),
        process=None if process is None else _process(process),
        trajectory=tensors.optional("trajectory", rows=len(x)),
        trajectory_levels=fields.optional_integers("trajectory_levels"),
    )


def posterior(response: httpx.Response) -> Posterior:
    fields, tensors = _read_tensors(response)
    described = fields.object("posterior")
    kl, z = tensors.optional_column("kl"), tensors.optional("z")
    rows = next((len(array) for array in (kl, z) if array is not None), None)
    return Posterior(
        **_origin(fields),
        family=described.text("family"),
        closed_form=described.boolean("closed_form"),
        parameters=MappingProxyType(tensors.under("posterior.")),
        z=tensors.optional("z", rows),
        kl=kl,
        kl_per_dimension=tensors.optional("kl_per_dimension", rows),
        log_q=tensors.optional("log_q", rows),
        level=fields.optional_integer("level"),
        log_snr=fields.optional_number("log_snr"),
    )


def scores(response: httpx.Response) -> Scores:
    fields, tensors = _read_tensors(response)
    elbo = tensors.column("elbo")
    n = len(elbo)
    summary = fields.object("summary")
    per_row = tensors.optional_column("num_samples", n)
    estimator = fields.optional_object("estimator")
    return Scores(
        **_origin(fields),
        elbo=elbo,
        standard_error=tensors.optional_column("standard_error", n),
        reconstruction=tensors.column("reconstruction", n),
        kl=tensors.column("kl", n),
        log_joint=tensors.column("log_joint", n),
        entropy=tensors.column("entropy", n),
        bits_per_dim=tensors.optional_column("bits_per_dim", n),
        iwae=tensors.optional_column("iwae", n),
        iwae_standard_error=tensors.optional_column("iwae_standard_error", n),
        effective_sample_size=tensors.optional_column("effective_sample_size", n),
        pareto_k=tensors.optional_column("pareto_k", n),
        gap=tensors.optional_column("gap", n),
        gap_standard_error=tensors.optional_column("gap_standard_error", n),
        log_evidence=tensors.optional_column("log_evidence", n),
        reconstruction_map=tensors.optional("reconstruction_map", rows=n),
        bound_map=tensors.optional("bound_map", rows=n),
        kl_per_level=tensors.optional("kl_per_level", rows=n),
        summary=Summary(
            mean=summary.number("mean"),
            standard_error=summary.optional_number("standard_error"),
            monte_carlo_standard_error=summary.optional_number("monte_carlo_standard_error"),
            n=summary.integer("n"),
        ),
        likelihood=fields.text("likelihood"),
        measure=fields.text("measure"),
        units=fields.text("units"),
        event_dims=fields.integer("event_dims"),
        kl_estimator=fields.text("kl_estimator"),
        gap_kind=fields.optional_text("gap_kind"),
        conditional_on=fields.optional_text("conditional_on"),
        marginal=fields.optional_text("marginal"),
        num_samples=fields.integer("num_samples") if per_row is None else per_row,
        num_importance_samples=fields.integer("num_importance_samples"),
        estimator=None if estimator is None else _estimator(estimator),
        num_steps=fields.optional_integer("num_steps"),
        passes=fields.optional_integer("passes"),
        target_met=tensors.optional_column("target_met", n),
        quantile=tensors.optional_column("quantile", n),
        typicality=tensors.optional_column("typicality", n),
        reference_num_samples=fields.optional_integer("reference_num_samples"),
        reference_size=fields.optional_integer("reference_size"),
        reference_reason=fields.optional_text("reference_reason"),
    )


def models(response: httpx.Response) -> tuple[PublishedModel, ...]:
    return tuple(_published(model) for model in _read_json(response).objects("models"))


def alias_move(response: httpx.Response) -> AliasMove:
    fields = _read_json(response)
    texts = {name: fields.text(name) for name in ("name", "alias", "who", "when", "why")}
    return AliasMove(**texts, entry=fields.integer("entry"), version=fields.integer("version"))


def version(response: httpx.Response) -> str:
    return _read_json(response).text("version")


def readiness(response: httpx.Response) -> None:
    """Returns if the server says that it is ready. Raises Malformed with its words otherwise."""
    if not _read_json(response).boolean("ready"):
        raise Malformed(_excerpt(response))


def _process(fields: Fields) -> Process:
    return Process(
        sampler=fields.text("sampler"),
        num_steps=fields.integer("num_steps"),
        level=fields.integer("level"),
        guidance=fields.number("guidance"),
        scored=fields.boolean("scored"),
    )


def _estimator(fields: Fields) -> Estimator:
    return Estimator(kind=fields.text("kind"), num_levels=fields.optional_integer("num_levels"))


def _published(fields: Fields) -> PublishedModel:
    aliases = fields.object("aliases")
    return PublishedModel(
        name=fields.text("name"),
        versions=fields.integers("versions"),
        aliases=MappingProxyType({alias: aliases.integer(alias) for alias in aliases.names()}),
        loaded=tuple(
            LoadedVersion(
                version=loaded.integer("version"),
                digest=loaded.text("digest"),
                reproducible=loaded.boolean("reproducible"),
                fingerprint=loaded.text("fingerprint"),
            )
            for loaded in fields.objects("loaded")
        ),
    )


class _Origin(TypedDict):
    model: ModelIdentity
    seed: int
    first_index: int
    fingerprint: str
    reproducible: bool


def _origin(fields: Fields) -> _Origin:
    model = fields.object("model")
    return {
        "model": ModelIdentity(name=model.text("name"), version=model.integer("version"), digest=model.text("digest")),
        "seed": fields.integer("seed"),
        "first_index": fields.integer("first_index"),
        "fingerprint": fields.text("fingerprint"),
        "reproducible": fields.boolean("reproducible"),
    }


class _Tensors:
    """Typed access to an answer's arrays. Raises Malformed."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    def optional(self, name: str, rows: int | None = None) -> Array | None:
        array = self._arrays.get(name)
        if array is not None and (array.ndim == 0 or (rows is not None and len(array) != rows)):
            raise Malformed(f"{name} has shape {array.shape}: not one entry for each row of the answer")
        return array

    def required(self, name: str, rows: int | None = None) -> Array:
        array = self.optional(name, rows)
        if array is None:
            raise Malformed(f"{name} is missing")
        return array

    def optional_column(self, name: str, rows: int | None = None) -> Array | None:
        array = self.optional(name, rows)
        if array is not None and array.ndim != 1:
            raise Malformed(f"{name} has shape {array.shape}, not one value a row")
        return array

    def column(self, name: str, rows: int | None = None) -> Array:
        array = self.optional_column(name, rows)
        if array is None:
            raise Malformed(f"{name} is missing")
        return array

    def under(self, prefix: str) -> dict[str, Array]:
        return {name.removeprefix(prefix): a for name, a in self._arrays.items() if name.startswith(prefix)}


def _reason(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__


def _read_tensors(response: httpx.Response) -> tuple[Fields, _Tensors]:
    _check_media_type(response, _safetensors.MEDIA_TYPE)
    fields, arrays = _safetensors.read(response.content)
    return Fields(fields), _Tensors(arrays)


def _read_json(response: httpx.Response) -> Fields:
    _check_media_type(response, _JSON)
    return Fields(parse_object(response.content, "the body"))


def _check_media_type(response: httpx.Response, expected: str) -> None:
    found = _media_type(response)
    if found != expected:
        raise Malformed(f"expected {expected}, got {found or 'no content type'}: {_excerpt(response)}")


def _media_type(response: httpx.Response) -> str:
    content_type: str = response.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower()


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    if _media_type(response) != _PROBLEM:
        return None
    try:
        return parse_object(response.content, "the problem")
    except Malformed:
        return None


def _describe(response: httpx.Response) -> str:
    """An answer without a problem document, so not from elbod itself: from a proxy, or at a wrong address."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    if response.is_redirect:
        return f"{status} to {response.headers.get('location', 'nowhere')}: give the final address as base_url"
    return f"{status}: {_excerpt(response)}"


def _excerpt(response: httpx.Response) -> str:
    """The beginning of the body, on one line of printable characters."""
    text = response.content[: 4 * _EXCERPT].decode("utf-8", "replace")
    printable = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return printable if len(printable) <= _EXCERPT else printable[:_EXCERPT] + " ..."


def _request_id(response: httpx.Response) -> str | None:
    """What the server's log calls the request, if it said so; else what we called it."""
    found: str | None = response.headers.get("x-request-id") or response.request.headers.get("x-request-id")
    return found
