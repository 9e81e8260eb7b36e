"""One uvicorn server around the application: a bound socket first, a drain at the first signal."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from elbod.api import keys
from elbod.api.acceptor import Acceptor
from elbod.api.balance import Balance
from elbod.api.protocol import Connection
from elbod.api.security import is_loopback
from elbod.errors import StartupError
from elbod.settings import Settings

if TYPE_CHECKING:
    from elbod.api.service import Service

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_CHECK_EVERY = 1.0


class _Server(uvicorn.Server):
    """Says once its loop runs and once connections are answered; drains at SIGTERM, however often."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: "Service",
        balance: Balance,
        running: Callable[[asyncio.AbstractEventLoop, "Service"], None],
        started: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._service, self._balance, self._running, self._started = service, balance, running, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._running(loop, self._service)
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)

        # Modules and models stay: a collection that walks them holds up the loop for a tenth of a second.
        gc.collect()
        gc.freeze()
        timeout = self._service.settings.request_timeout

        def protocol() -> asyncio.Protocol:
            return Connection(
                self.config,
                self.server_state,
                self.lifespan.state,
                loop,
                timeout=timeout,
                draining=lambda: self._service.draining,
                balance=self._balance,
            )

        self._checking = loop.create_task(self._check_regularly(min(_CHECK_EVERY, timeout / 4)))
        self.servers = [Acceptor(loop, listener, protocol, self._balance) for listener in sockets or []]  # type: ignore[misc]
        self.started = True
        if not self.should_exit:
            self._started()

    async def _check_regularly(self, seconds: float) -> None:
        """Until the loop ends: a drain waits for connections, too."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.check(loop.time())
            self._balance.review()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Ctrl-C in a terminal reaches the whole group: the supervisor makes one SIGTERM of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Never by force: a service manager tells the worker, and so does the supervisor, who kills those that must not
        # wait.
        self.should_exit = True
        self._balance.leave()
        self._service.begin_drain()


def serve(
    settings: Settings,
    listener: socket.socket,
    balance: Balance,
    *,
    running: Callable[[asyncio.AbstractEventLoop, "Service"], None],
    started: Callable[[], None],
) -> None:
    """Serve in this process until SIGTERM, then finish what was admitted. Raises StartupError.

    `running` gets the event loop and the service before the models are loaded; `started` is called once connections
    are answered.
    """
    # Only workers load torch: the supervisor takes `bind` from here.
    from elbod.api.app import create_app

    app = create_app(settings)
    config = uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # No answer depends on whom a proxy asks for.
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.drain_timeout) + 1,
    )
    _Server(config, app.state.service, balance, running, started).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is known before anything is loaded. Raises StartupError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        # A port whose last server has just gone may be taken again; one that is listened on may not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such host name"
        raise StartupError(f"cannot listen on {host}:{port}: {reason}; choose another with --port") from error
    return listener


def refuse_open_door(settings: Settings) -> None:
    """Nobody beyond this machine is let in unasked without keys. Raises StartupError, for a bad keys file too."""
    if settings.keys_file is not None:
        keys.read(settings.keys_file)
    elif settings.admin and "*" in settings.cors_origins:
        raise StartupError(
            "refusing --admin with cors_origins * and without keys, which lets any page move aliases: give --keys-file "
            "(see `elbod keys`), or name the origins"
        )
    elif is_loopback(settings.host):
        return
    elif settings.admin:
        raise StartupError(f"refusing --admin on {settings.host} without keys: give --keys-file (see `elbod keys`)")
    elif not settings.insecure:
        raise StartupError(
            f"refusing to listen on {settings.host} without keys: use 127.0.0.1, give --keys-file (see `elbod keys`), "
            "or pass --insecure"
        )
