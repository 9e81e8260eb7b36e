"""Moving aliases over HTTP: promote and roll back, each of which is one entry of the alias's log."""

from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from elbod.api import document, schemas, wire
from elbod.api.models import ask_store
from elbod.api.parameters import Alias, Name
from elbod.api.security import host_of, is_loopback
from elbod.api.service import service_of
from elbod.errors import Forbidden, LostRace, UnsupportedMediaType, shown
from elbod.requests.verbs import validated
from elbod_store import AliasEntry, Conflict, ModelStore, UnknownAlias
from elbod_store.names import MAX_NUMBER

router = APIRouter()

_MAX_BODY = 64 * 1024
_EXPECTED = (
    "the version that the alias is believed to name now, null for none: 409 if it does not; "
    "absent: whatever it names, so the last of two promotions wins"
)


class Promotion(BaseModel):
    """Where an alias is to go."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: int = Field(ge=1, le=MAX_NUMBER, examples=[12])
    expected: int | None = Field(None, ge=1, le=MAX_NUMBER, description=_EXPECTED, examples=[11])
    why: str = Field(min_length=1, max_length=1000, description="for the alias's log", examples=["better ELBO"])


class Rollback(BaseModel):
    """Why an alias goes back."""

    model_config = ConfigDict(strict=True, extra="forbid")

    expected: int | None = Field(None, ge=1, le=MAX_NUMBER, description=_EXPECTED, examples=[12])
    why: str = Field(
        "rolled back", min_length=1, max_length=1000, description="for the alias's log", examples=["worse on new data"]
    )


class AliasMove(schemas.AliasEntry):
    """The new entry of an alias's log, as `GET /models/{name}` lists it under `history`."""

    name: str = Field(examples=["digits"])
    alias: str = Field(examples=["production"])


Fields = TypeVar("Fields", Promotion, Rollback)


def _documented(body: type[BaseModel], required: bool) -> dict[str, Any]:
    """Route arguments for a body that is read only once the caller is known to be allowed."""
    content = {wire.JSON_TYPE: {"schema": body.model_json_schema()}}
    return {
        "response_model": AliasMove,
        "openapi_extra": {"requestBody": {"required": required, "content": content}},
        "responses": document.problems(404, 409, 413, 415, 422, 429, 502, 503, 504),
    }


@router.put("/models/{name}/aliases/{alias}", **_documented(Promotion, required=True))
async def promote(request: Request, name: Name, alias: Alias) -> AliasMove:
    """Point an alias at a version; the services of the store follow within their poll interval.

    Needs a server with `--admin`, and a key of scope `admin` if it has keys. A lost race is 409 and says where the
    alias is now; a version that does not exist or was retired is 404.
    """
    who = _who(request)
    fields = await _parse(request, Promotion)
    service = service_of(request)
    return await service.ask_store(request, _promote, service.store, name, alias, fields, who)


@router.delete("/models/{name}/aliases/{alias}", **_documented(Rollback, required=False))
async def roll_back(request: Request, name: Name, alias: Alias) -> AliasMove:
    """Point an alias back at the version that it named before the one it names now. The alias stays.

    Twice is back and forth: with `expected` the second one is 409. Without an earlier version, 404. The rest is as PUT.
    """
    who = _who(request)
    fields = await _parse(request, Rollback)
    service = service_of(request)
    return await service.ask_store(request, _roll_back, service.store, name, alias, fields, who)


def _who(request: Request) -> str:
    """The caller's name for the log; whether its key has the scope, the guard has seen. Raises Forbidden."""
    settings = service_of(request).settings
    if not settings.admin:
        raise Forbidden("this server moves no aliases: start it with --admin")
    if settings.keys_file is not None:
        return str(request.state.key.id)
    # A page of another site can reach a server on loopback through a name of its own that resolves to 127.0.0.1.
    if not is_loopback(host_of(request.scope)):
        raise Forbidden("without keys aliases are moved from this machine only, by http://127.0.0.1 or localhost")
    return "anonymous"


async def _parse(request: Request, schema: type[Fields]) -> Fields:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await service_of(request).read_body(request, _MAX_BODY)
    # A rollback may have no body, and then has no type.
    if media != wire.JSON_TYPE and (media or body or schema is Promotion):
        raise UnsupportedMediaType(f"content type {shown(media)!r}: send {wire.JSON_TYPE}")
    fields, _ = wire.decode_json(body or b"{}", ())
    return validated(schema, fields)


def _promote(store: ModelStore, name: str, alias: str, fields: Promotion, who: str) -> AliasMove:
    seen = _check_expected(store, name, alias, fields)
    try:
        entry = ask_store(store.promote, name, alias, fields.version, expected=seen, who=who, why=fields.why)
    except Conflict as error:
        raise _lost(name, alias, _newest(store, name, alias)) from error
    return _move(entry)


def _roll_back(store: ModelStore, name: str, alias: str, fields: Rollback, who: str) -> AliasMove:
    seen = _check_expected(store, name, alias, fields)
    try:
        entry = ask_store(store.rollback, name, alias, expected=seen, who=who, why=fields.why)
    except Conflict as error:
        raise _lost(name, alias, _newest(store, name, alias)) from error
    return _move(entry)


def _check_expected(store: ModelStore, name: str, alias: str, fields: Promotion | Rollback) -> int | None:
    """The number of the entry that has the expected version, None if nothing is expected. Raises LostRace."""
    if "expected" not in fields.model_fields_set:
        return None
    newest = _newest(store, name, alias)
    if (newest.version if newest else None) != fields.expected:
        raise _lost(name, alias, newest)
    return newest.number if newest else 0


def _newest(store: ModelStore, name: str, alias: str) -> AliasEntry | None:
    def newest() -> AliasEntry | None:
        try:
            return store.history(name, alias)[-1]
        except UnknownAlias:
            return None

    entry: AliasEntry | None = ask_store(newest)
    return entry


def _lost(name: str, alias: str, newest: AliasEntry | None) -> LostRace:
    now = "is not set" if newest is None or newest.version is None else f"names version {newest.version}"
    by = "" if newest is None else f", by {newest.who} ({newest.why})"
    return LostRace(f"{name}@{alias} {now}{by}: look again, then decide")


def _move(entry: AliasEntry) -> AliasMove:
    assert entry.version is not None
    return AliasMove(
        name=entry.name,
        alias=entry.alias,
        entry=entry.number,
        version=entry.version,
        who=entry.who,
        when=entry.when.isoformat(),
        why=entry.why,
    )
