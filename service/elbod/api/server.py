"""One uvicorn server around the application: a bound socket first, exit code 0 after a drain."""

import ipaddress
import signal
import socket
from collections.abc import Callable

import uvicorn

from elbod.api.app import create_app
from elbod.api.logs import configure_logging
from elbod.errors import StartupError
from elbod.settings import Settings

_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Says where it is once connections are answered."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._announce(f"http://{host}:{port}")


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was admitted. `announce` gets the URL. Raises StartupError."""
    _refuse_open_door(settings)
    configure_logging()
    app = create_app(settings)
    listener = bind(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_timeout) + 1,
    )
    # uvicorn raises the signal again once it has drained; by then it is obeyed.
    signal.signal(signal.SIGTERM, lambda *_: None)
    _Server(config, announce).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is known before anything is loaded. Raises StartupError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        # A port whose last server has just gone may be taken again; one that is listened on may not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from error
    return listener


def _refuse_open_door(settings: Settings) -> None:
    if settings.insecure or settings.host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise StartupError(f"refusing to listen on {settings.host} without keys: use 127.0.0.1, or pass --insecure")
