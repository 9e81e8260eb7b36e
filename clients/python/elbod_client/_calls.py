"""Requests as values: what to send, and how to read the answer. Nothing here knows who sends them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx

from elbod_client import _answers
from elbod_client._results import AliasMove, PublishedModel

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request. `read` turns a 200 answer into the result, raising Malformed if it is not what was promised."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    read: Callable[[httpx.Response], T]
    headers: Mapping[str, str]
    content: bytes | None = None
    # Whether a second request does no harm where the first one's fate is unknown.
    repeatable: bool = True


def _get(path: str, read: Callable[[httpx.Response], T]) -> Call[T]:
    return Call("GET", path, read, {"Accept": "application/json"})


MODELS: Final[Call[tuple[PublishedModel, ...]]] = _get("/models", _answers.models)
VERSION: Final[Call[str]] = _get("/version", _answers.version)
READINESS: Final[Call[None]] = _get("/readyz", _answers.readiness)


def promote(name: str, alias: str, version: int, expected: int | None, why: str) -> Call[AliasMove]:
    return _move("PUT", name, alias, {"version": version, "expected": expected, "why": why})


def rollback(name: str, alias: str, expected: int | None, why: str) -> Call[AliasMove]:
    return _move("DELETE", name, alias, {"expected": expected, "why": why})


def _move(method: Literal["PUT", "DELETE"], name: str, alias: str, body: Mapping[str, object]) -> Call[AliasMove]:
    given = {field: value for field, value in body.items() if value is not None}
    # Twice would be there and back again, or a second entry in the alias's log.
    path = f"/models/{quote(name, safe='')}/aliases/{quote(alias, safe='')}"
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    return Call(method, path, _answers.alias_move, headers, json.dumps(given).encode(), repeatable=False)
