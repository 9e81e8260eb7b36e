"""Everything that elbod raises on purpose, and the HTTP status of each.

    ElbodError
    |-- RequestError                the caller can mend it
    |   |-- Malformed               400  not parseable
    |   |-- UnknownHost             400  the Host header is none of `allowed_hosts`
    |   |-- Unauthorized            401  no key, or a wrong one
    |   |-- Forbidden               403  the key lacks the scope, or the server runs without --admin
    |   |-- UnknownModel            404  no such model, version or alias
    |   |-- NotAcceptable           406  none of `Accept` is on offer
    |   |-- HeadTooSlow             408  the head stopped arriving
    |   |-- BodyTooSlow             408  the body stopped arriving
    |   |-- LostRace                409  an alias is not where the caller believes it to be
    |   |-- BodyTooLarge            413  over the byte limit
    |   |-- UrlTooLong              414  over the byte limit of a URL
    |   |-- UnsupportedMediaType    415  content type not supported
    |   |-- InvalidInput            422  shape, dtype, support or a parameter; names the place
    |   |-- QueueFull               429  try again after `retry_after` seconds
    |   `-- HeadersTooLarge         431  over the limit of all headers together
    |-- NotReady                    503  no model loaded yet, or the store cannot be reached
    |-- Draining                    503  the server is shutting down
    |-- OutOfMemory                 503  the device has no memory for what a job needs at once
    |-- DeadlineExceeded            504  the work was dropped, not finished
    |-- ModelFailure                500  a model raised, or drew from its prior what is not finite
    `-- StartupError                     the command cannot start: exit code 1

A message says what was wrong, where, and what to do about it.
"""

from dataclasses import dataclass
from typing import Self


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


class HeadTooSlow(RequestError):
    """The request line and the headers did not arrive in time."""


class BodyTooSlow(RequestError):
    """The body did not arrive in time."""


class LostRace(RequestError):
    """Somebody else moved the alias; the message says where it is now."""


class BodyTooLarge(RequestError):
    """The body is longer than the limit."""


class UrlTooLong(RequestError):
    """The URL is longer than the limit."""


class HeadersTooLarge(RequestError):
    """The headers, their number, or what frames the body is over the limit."""


class UnsupportedMediaType(RequestError):
    """The content type is not one that the route reads."""


# More places than that help nobody.
MAX_PLACES = 10


def shown(text: str, limit: int = 100) -> str:
    """A caller's text as messages quote it: at most `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@dataclass(frozen=True)
class Place:
    """One thing wrong with a request: `pointer` is a JSON pointer into it (RFC 6901)."""

    pointer: str
    detail: str

    @classmethod
    def named(cls, names: tuple[int | str, ...], message: str, whole: str) -> Self:
        """The place of these names, one within the other; `whole` is what the message calls the place of none."""
        texts = [shown(str(name)) for name in names]
        return cls("/" + "/".join(texts), f"{'.'.join(texts) or whole}: {message}")


class InvalidInput(RequestError):
    """Values that parse but cannot be used."""

    def __init__(self, *places: Place) -> None:
        more = len(places) - MAX_PLACES
        details = [place.detail for place in places[:MAX_PLACES]] + ([f"and {more:,} more"] if more > 0 else [])
        super().__init__("; ".join(details))
        self.places = places

    @classmethod
    def at(cls, pointer: str, detail: str) -> "InvalidInput":
        return cls(Place(pointer, detail))


class QueueFull(RequestError):
    """A bound of what waits is reached."""

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


class DamagedStore(ModelFailure):
    """Something in the model store is damaged: neither the caller's fault nor a bug of the server."""


class OutOfMemory(ElbodError):
    """The device has no memory for what a job needs at once."""


class StartupError(ElbodError):
    """A command cannot start; the message is the one line that the user sees."""


STATUS: dict[type[ElbodError], int] = {
    Malformed: 400,
    UnknownHost: 400,
    Unauthorized: 401,
    Forbidden: 403,
    UnknownModel: 404,
    NotAcceptable: 406,
    HeadTooSlow: 408,
    BodyTooSlow: 408,
    LostRace: 409,
    BodyTooLarge: 413,
    UrlTooLong: 414,
    UnsupportedMediaType: 415,
    InvalidInput: 422,
    QueueFull: 429,
    HeadersTooLarge: 431,
    ModelFailure: 500,
    DamagedStore: 502,
    NotReady: 503,
    Draining: 503,
    OutOfMemory: 503,
    DeadlineExceeded: 504,
}
