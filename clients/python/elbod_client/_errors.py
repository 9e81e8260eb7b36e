"""Everything that the client raises about an answer, or about there being none.

    ElbodError
    |-- BadRequest                400  not parseable
    |-- Unauthorized              401  no key, or a wrong one
    |-- Forbidden                 403  the key lacks the scope
    |-- NotFound                  404  no such model, version or alias; the message suggests close names
    |-- NotAcceptable             406  the server cannot answer in safetensors
    |-- BodyTooSlow               408  the body stopped arriving
    |-- Conflict                  409  somebody else was first
    |-- BodyTooLarge              413  over the server's byte limit: send fewer rows
    |-- UnsupportedMediaType      415  the server does not read safetensors
    |-- InvalidInput              422  shape, dtype, support or a parameter; the message names the place
    |-- QueueFull                 429  still full after the retries
    |-- ServerError               5xx  the server's log has the request id
    |   |-- NotReady              503  no model loaded, or draining, still after the retries
    |   `-- DeadlineExceeded      504  the work took longer than `timeout` and was dropped
    |-- ConnectionFailed               no answer: refused, broken or timed out
    `-- InvalidResponse                an answer, but none of elbod's: HTML, cut short, a redirect

The message is the server's own. Arguments that cannot be sent at all raise TypeError or ValueError instead.
"""

from typing import Any, Final


class ElbodError(Exception):
    """Base of all errors above.

    `status_code` is the HTTP status (None without an answer), `request_id` what the server's log calls the request,
    `problem` the RFC 9457 document of the answer (None where it had none), `retry_after` the seconds after which the
    server asked to be tried again.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        request_id: str | None = None,
        problem: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.request_id = request_id
        self.problem = problem
        self.retry_after = retry_after
        if request_id is not None:
            self.add_note(f"request id: {request_id}")


class BadRequest(ElbodError):
    """400: the server could not parse the request."""


class Unauthorized(ElbodError):
    """401: no key, or a wrong one."""


class Forbidden(ElbodError):
    """403: the key lacks the scope, or the server does not allow this to anyone."""


class NotFound(ElbodError):
    """404: no such model, version or alias."""


class NotAcceptable(ElbodError):
    """406: the server cannot answer in the format asked for."""


class BodyTooSlow(ElbodError):
    """408: the body did not arrive in time."""


class Conflict(ElbodError):
    """409: somebody else was first."""


class BodyTooLarge(ElbodError):
    """413: the body is over the server's byte limit."""


class UnsupportedMediaType(ElbodError):
    """415: the server does not read the format sent."""


class InvalidInput(ElbodError):
    """422: values that parse but cannot be used; `problem["errors"]` lists their places as JSON pointers."""


class QueueFull(ElbodError):
    """429: the queue was full, every time."""


class ServerError(ElbodError):
    """5xx: the server failed."""


class NotReady(ServerError):
    """503: no model can answer, or the server is shutting down."""


class DeadlineExceeded(ServerError):
    """504: the deadline passed, and the work was dropped."""


class ConnectionFailed(ElbodError):
    """No answer came; the httpx error is the cause."""


class InvalidResponse(ElbodError):
    """What came is not an answer of elbod."""


BY_STATUS: Final[dict[int, type[ElbodError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    406: NotAcceptable,
    408: BodyTooSlow,
    409: Conflict,
    413: BodyTooLarge,
    415: UnsupportedMediaType,
    422: InvalidInput,
    429: QueueFull,
    503: NotReady,
    504: DeadlineExceeded,
}
