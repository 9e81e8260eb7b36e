"""Connections taken from a socket that other workers listen on, too."""

import asyncio
import logging
import select
import socket
from collections.abc import Callable

from elbod.api.balance import Balance

logger = logging.getLogger(__name__)

# Seconds until a failed accept is retried.
_ACCEPT_AGAIN = 1.0
# Seconds between two looks at a connection that is left to another worker, and after which that worker is skipped.
_PAUSE, _PATIENCE = 0.001, 0.1
# Connections accepted in one turn of the event loop: requests wait meanwhile.
_AT_ONCE = 16


class Acceptor:
    """Accepts connections while no other worker has less load, a few in each turn of the event loop.

    An event loop's own server accepts all that wait, so one worker would keep all callers that come at once.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        balance: Balance,
    ) -> None:
        self._loop, self._listener, self._protocol, self._balance = loop, listener, protocol, balance
        self._opening: set[asyncio.Task[object]] = set()
        self._closed = False
        self._pending = select.poll()
        self._pending.register(listener, select.POLLIN)
        listener.setblocking(False)
        balance.join()
        self._listen()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener.fileno(), self._take_or_leave)

    def _take_or_leave(self) -> None:
        for _ in range(_AT_ONCE):
            if lighter := self._balance.lighter():
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_PAUSE, self._wait, self._loop.time(), lighter)
                return
            if not self._accept():
                return

    def _wait(self, since: float, lighter: dict[int, int]) -> None:
        """Leave the connection that is pending to the `lighter` workers, but not for long: one may be stuck."""
        if self._closed:
            return
        now = self._loop.time()
        if now - since > _PATIENCE:
            self._balance.skip(lighter)
            since, lighter = now, self._balance.lighter()
        if self._balance.lighter() and self._pending.poll(0):
            self._loop.call_later(_PAUSE, self._wait, since, lighter)
        else:
            self._listen()

    def _accept(self) -> bool:
        """Whether there was a connection."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another worker was faster, or the caller has left.
            return False
        except OSError as error:
            # Out of file descriptors or memory: open connections continue, and may free some.
            logger.error("cannot accept a connection, trying again in %g s: %s", _ACCEPT_AGAIN, error)
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(_ACCEPT_AGAIN, self._listen)
            return False
        connection.setblocking(False)
        self._balance.open()
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return True

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            self._balance.close(in_use=True)
            connection.close()

    def close(self) -> None:
        """Take no more connections."""
        if not self._closed:
            self._closed = True
            self._balance.leave()
            self._loop.remove_reader(self._listener.fileno())

    async def wait_closed(self) -> None:
        """Return at once: connections are the protocol's."""
