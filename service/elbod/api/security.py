"""Who may ask: host names, origins and keys, checked before anything else of a request is read.

A key opens routes by method and path, so that a new route is closed until it is listed here as open.
"""

import contextlib
import ipaddress
import time

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from elbod.api.keys import KeyRing
from elbod.api.problems import respond
from elbod.errors import Forbidden, RequestError, Unauthorized, UnknownHost
from elbod.settings import Settings

_OPEN = frozenset({"/", "/healthz", "/readyz", "/version", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
# Scripts and styles of /docs and /redoc, served from here: no page loads anything from elsewhere.
DOCS_FILES = "/docs-files"
# Those of the playground.
PAGE_FILES = "/playground"
_CHANGING = frozenset({"PUT", "DELETE", "PATCH"})
_READING = frozenset({"GET", "HEAD"})
_FOREIGN = frozenset({b"cross-site", b"same-site"})
_INFER, _ADMIN = frozenset({"infer"}), frozenset({"admin"})

_REQUEST_HEADERS = ("Authorization", "Content-Type", "If-None-Match", "Request-Timeout", "X-Request-Id")
_RESPONSE_HEADERS = ("ETag", "Retry-After", "Server-Timing", "X-Request-Id")
# What identifies a picture, which has no fields.
_PICTURE_HEADERS = tuple(
    f"X-Elbod-{name}" for name in ("Model", "Digest", "Seed", "First-Index", "Fingerprint", "Reproducible")
)


def install(app: FastAPI, settings: Settings) -> None:
    """Add the check of pages, and those that are configured. Raises StartupError."""
    app.add_middleware(OwnPages, origins=settings.cors_origins)
    if settings.keys_file is not None:
        app.add_middleware(Guard, ring=KeyRing(settings.keys_file, time.monotonic()))
    if settings.cors_origins:
        # Around the guard: a browser asks first and without a key, and a page may read why it was refused.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", *(("PUT", "DELETE") if settings.admin else ())],
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS + _PICTURE_HEADERS,
        )
    if settings.allowed_hosts:
        app.add_middleware(AllowedHosts, allowed=settings.allowed_hosts)


def needed_scopes(method: str, path: str) -> frozenset[str]:
    """The scopes of which a key must have one; none where no key is needed."""
    if method in _CHANGING:
        return _ADMIN
    if path in _OPEN or (method in _READING and path.startswith((f"{DOCS_FILES}/", f"{PAGE_FILES}/"))):
        return frozenset()
    return _INFER | _ADMIN if path == "/metrics" else _INFER


class Guard:
    """ASGI middleware: a request needs a key of the right scope. Its `Key` is `request.state.key` from here on."""

    def __init__(self, app: ASGIApp, ring: KeyRing) -> None:
        self.app, self._ring = app, ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            needed = needed_scopes(scope["method"], _route_path(scope))
            if needed:
                try:
                    key = self._ring.find(_token(scope), time.monotonic())
                    scope.setdefault("state", {})["key"] = key
                    if needed.isdisjoint(key.scopes):
                        raise Forbidden(f"the key lacks the scope {' or '.join(sorted(needed))!r}")
                except RequestError as error:
                    await respond(Request(scope), error)(scope, receive, send)
                    return
            else:
                # Open to all, and /readyz says more to callers with a key.
                with contextlib.suppress(RequestError):
                    scope.setdefault("state", {})["key"] = self._ring.find(_token(scope), time.monotonic())
        await self.app(scope, receive, send)


class OwnPages:
    """ASGI middleware: a browser makes this server compute or change for its own page and `origins` only.

    Browsers say in `Sec-Fetch-Site` whose page asks, and other callers do not send it. Links on other pages open.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self.app = app
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            if headers.get(b"sec-fetch-site") in _FOREIGN and self._refuses(scope, headers):
                error = Forbidden("a page of another origin asks: name its origin in cors_origins to let it")
                await respond(Request(scope), error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refuses(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        if b"*" in self._origins or headers.get(b"origin") in self._origins:
            return False
        if scope["method"] not in _READING:
            return True
        opened = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
        path = _route_path(scope)
        # Of a version's levels the answer is small, and its load is not.
        loads = "/versions/" in path and path.endswith("/levels")
        return (path == "/sample" or loads) and not opened


def _token(scope: Scope) -> bytes:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) != 1 or given[0][:7].lower() != b"bearer ":
        raise Unauthorized("this server asks for a key: send the header `Authorization: Bearer <key>`, once")
    token: bytes = given[0][7:].strip()
    return token


def _route_path(scope: Scope) -> str:
    """The path as the router reads it: without the prefix of a proxy that did not strip it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


class AllowedHosts:
    """ASGI middleware: a request must have come to one of the names that this server goes by."""

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...]) -> None:
        self.app = app
        self._names = frozenset(allowed)
        self._endings = tuple(name[1:] for name in allowed if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = host_of(scope)
            # `.example.com` ends like *.example.com, and is no host.
            if host not in self._names and not (host.endswith(self._endings) and not host.startswith(".")):
                error = UnknownHost("the Host header names none of this server's allowed_hosts")
                await respond(Request(scope), error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def host_of(scope: Scope) -> str:
    """The host that the request was sent to, in lower case, without port and brackets; empty without a clear one."""
    given = [value for name, value in scope["headers"] if name == b"host"]
    if len(given) != 1:
        return ""
    text = str(given[0], "latin-1").lower()
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        return host if bracket and (not port or port.startswith(":")) else ""
    return text.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether that name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
