"""One uvicorn server around the application: a bound socket first, exit code 0 after a drain."""

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from elbod.api import keys
from elbod.api.app import create_app
from elbod.api.logs import configure_logging
from elbod.api.security import is_loopback
from elbod.errors import StartupError
from elbod.settings import Settings

_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Says where it is once connections are answered, and drains at the first signal."""

    def __init__(
        self, config: uvicorn.Config, announce: Callable[[str], None], begin_drain: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._announce, self._begin_drain = announce, begin_drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._announce(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # A second signal, whichever it is, does not wait.
            self.force_exit = True
        self._begin_drain()
        super().handle_exit(sig, frame)


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was admitted. `announce` gets the URL. Raises StartupError."""
    refuse_open_door(settings)
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
    _Server(config, announce, app.state.service.begin_drain).run(sockets=[listener])


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
    elif is_loopback(settings.host):
        return
    elif settings.admin:
        raise StartupError(f"refusing --admin on {settings.host} without keys: give --keys-file (see `elbod keys`)")
    elif not settings.insecure:
        raise StartupError(
            f"refusing to listen on {settings.host} without keys: use 127.0.0.1, give --keys-file (see `elbod keys`), "
            "or pass --insecure"
        )
