"""Request ids and the log: JSON lines on stderr, one a request, never with inputs or keys."""

import logging
import random
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from elbod.api.line_writer import LineWriter
from elbod.api.problems import bug, respond

logger = logging.getLogger("elbod.access")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# What nginx calls it, and everybody since: the caller left before the answer.
CLIENT_CLOSED_REQUEST = 499
_STDERR = 2
_FLUSH_SECONDS = 1.0


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class _LineHandler(logging.Handler):
    """Hands formatted records to the writer."""

    def __init__(self, lines: LineWriter) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.write(f"{self.format(record)}\n".encode())
        except Exception:
            self.handleError(record)
        if record.levelno >= logging.CRITICAL:
            # The process may be about to end by force.
            self.flush()

    def flush(self) -> None:
        """Called by `logging` at the end of the process, too."""
        self._lines.flush(_FLUSH_SECONDS)


# All lines of this process.
lines = LineWriter(_STDERR)


def configure_logging(level: int = logging.INFO) -> None:
    """Everything to stderr as JSON lines."""
    logging.basicConfig(level=level, handlers=[_LineHandler(lines)], force=True)
    # uvicorn's own access log would say everything twice.
    logging.getLogger("uvicorn.access").disabled = True


class RequestLog:
    """ASGI middleware: echoes or makes `X-Request-Id`, and logs how each request ended.

    `ended` is told, too: path, status, seconds, and the kind of problem if it was one.
    """

    def __init__(self, app: ASGIApp, ended: Callable[[str, int, float, str | None], None] = lambda *_: None) -> None:
        self.app, self.ended = app, ended
        # Ids must differ and need not be secret: the system's own randomness costs a system call each.
        self._ids = random.Random(secrets.randbits(128))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else b"%032x" % self._ids.getrandbits(128)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        started, status, answered = time.perf_counter(), CLIENT_CLOSED_REQUEST, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id)]
            await send(message)

        refusal = scope["state"].get("refusal")
        app = self.app if refusal is None else respond(Request(scope), refusal)
        try:
            await app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("a bug", extra={"fields": {"request_id": request_id.decode()}})
            if answered:
                raise
            status = 500
            await bug(Request(scope))(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            self.ended(path, status, seconds, scope["state"].get("problem"))
            if logger.isEnabledFor(logging.INFO):
                _log_access(scope, request_id.decode(), status, seconds)


def _log_access(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    """Not by `logging`: small requests would feel its records."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "info",
        "logger": logger.name,
        "message": f"{scope['method']} {scope['path']} {status}",
        "request_id": request_id,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(seconds, 6),
    }
    if "key" in scope["state"]:
        line["key_id"] = scope["state"]["key"].id
    lines.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
