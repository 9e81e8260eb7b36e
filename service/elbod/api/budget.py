"""What callers make this process hold outside of the engine's queue: bodies and answers, bounded together."""

from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from elbod.errors import QueueFull

# Requests of at most so many bytes have an eighth of the budget to themselves: callers who ask for much and read
# nothing keep out their like, and nobody else.
_SMALL = 64 * 1024
_SMALL_SHARE = 8
# Of an answer, handed over at once. The caller's connection takes the next one when this one has left the process.
_PIECE = 256 * 1024


@dataclass
class Share:
    """A part of the budget, and what is held of it."""

    limit: int
    held: int = 0


class ByteBudget:
    """`limit` bytes for all requests of the process."""

    def __init__(self, limit: int) -> None:
        self.small = Share(limit // _SMALL_SHARE)
        self.large = Share(limit - self.small.limit)

    def share(self, size: int) -> Share:
        """What a request of that size holds bytes of."""
        return self.small if size <= _SMALL else self.large


class Holding:
    """What one request holds of the budget, until its answer has been sent."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget, self._share = budget, budget.small
        self._bytes = 0

    def reserve(self, size: int) -> None:
        """Hold at least so many bytes. Raises QueueFull if what others hold leaves no room."""
        size = max(size, self._bytes)
        share = self._budget.share(size)
        others = share.held - (self._bytes if share is self._share else 0)
        if others + size > share.limit:
            raise QueueFull(f"{others} bytes of bodies and answers are held: try again", retry_after=1)
        self.note(size)

    def note(self, size: int) -> None:
        """Hold at least so many bytes that are there already."""
        size = max(size, self._bytes)
        self.release()
        self._share, self._bytes = self._budget.share(size), size
        self._share.held += size

    def release(self) -> None:
        """Hold nothing more."""
        self._share.held -= self._bytes
        self._bytes = 0


class Held:
    """ASGI middleware: a request's `Holding` is `request.state.holding`, released when its answer has been sent.

    An answer is sent in pieces, so that this takes until the caller has read nearly all of it.
    """

    def __init__(self, app: ASGIApp, budget: ByteBudget) -> None:
        self.app, self._budget = app, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        holding = scope.setdefault("state", {})["holding"] = Holding(self._budget)

        async def send_held(message: Message) -> None:
            body = message.get("body", b"")
            if body:
                holding.note(len(body))
            if len(body) <= _PIECE:
                await send(message)
                return
            rest, more = memoryview(body), message.get("more_body", False)
            while rest:
                piece, rest = rest[:_PIECE], rest[_PIECE:]
                await send({**message, "body": piece, "more_body": more or bool(rest)})

        try:
            await self.app(scope, receive, send_held)
        finally:
            holding.release()
