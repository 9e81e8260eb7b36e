"""Everything that elbod raises on purpose, and the HTTP status of each.

    ElbodError
    |-- RequestError                the caller can mend it
    |   |-- Malformed               400  not parseable
    |   |-- UnknownHost             400  the Host header is none of `allowed_hosts`
    |   |-- Unauthorized            401  no key, or a wrong one
    |   |-- Forbidden               403  the key lacks the scope, or the server runs without --admin
    |   |-- UnknownModel            404  no such model, version or alias
    |   |-- NotAcceptable           406  none of `Accept` is on offer
    |   |-- BodyTooSlow             408  the body stopped arriving
    |   |-- LostRace                409  an alias is not where the caller believes it to be
    |   |-- BodyTooLarge            413  over the byte limit
    |   |-- UnsupportedMediaType    415  content type not supported
    |   |-- InvalidInput            422  shape, dtype, support or a parameter; names the place
    |   `-- QueueFull               429  try again after `retry_after` seconds
    |-- NotReady                    503  no model loaded yet, or the store cannot be reached
    |-- Draining                    503  the server is shutting down
    |-- DeadlineExceeded            504  the work was dropped, not finished
    |-- ModelFailure                500  a model raised, or drew from its prior what is not finite
    `-- StartupError                     the command cannot start: exit code 1

A message says what was wrong, where, and what to do about it.
"""

from dataclasses import dataclass


class ElbodError(Exception):
    """Base of all errors above."""


class RequestError(ElbodError):
    """The request is at fault."""


class Malformed(RequestError):
    """The body cannot be parsed."""


class UnknownHost(RequestError):
    """The request was sent to a name that is not this server's."""


class Unauthorized(RequestError):
    """The request has no key, or one that this server does not know."""


class Forbidden(RequestError):
    """The caller is known and may not do this."""


class UnknownModel(RequestError):
    """No such model, version or alias; the message suggests close names."""


class NotAcceptable(RequestError):
    """None of the media types in `Accept` can be produced."""


class BodyTooSlow(RequestError):
    """The body did not arrive in time."""


class LostRace(RequestError):
    """Somebody else moved the alias; the message says where it is now."""


class BodyTooLarge(RequestError):
    """The body is longer than the limit."""


class UnsupportedMediaType(RequestError):
    """The content type is not one that the route reads."""


@dataclass(frozen=True)
class Place:
    """One thing wrong with a request: `pointer` is a JSON pointer into it (RFC 6901)."""

    pointer: str
    detail: str


class InvalidInput(RequestError):
    """Values that parse but cannot be used."""

    def __init__(self, *places: Place) -> None:
        super().__init__("; ".join(place.detail for place in places))
        self.places = places

    @classmethod
    def at(cls, pointer: str, detail: str) -> "InvalidInput":
        return cls(Place(pointer, detail))


class QueueFull(RequestError):
    """The queue's bound in rows or bytes is reached."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(ElbodError):
    """No model can answer yet."""


class Draining(ElbodError):
    """The server finishes what it admitted and takes nothing new."""


class DeadlineExceeded(ElbodError):
    """The deadline passed before the answer was there."""


class ModelFailure(ElbodError):
    """A model's own computation went wrong."""


class StartupError(ElbodError):
    """A command cannot start; the message is the one line that the user sees."""


STATUS: dict[type[ElbodError], int] = {
    Malformed: 400,
    UnknownHost: 400,
    Unauthorized: 401,
    Forbidden: 403,
    UnknownModel: 404,
    NotAcceptable: 406,
    BodyTooSlow: 408,
    LostRace: 409,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    InvalidInput: 422,
    QueueFull: 429,
    ModelFailure: 500,
    NotReady: 503,
    Draining: 503,
    DeadlineExceeded: 504,
}
