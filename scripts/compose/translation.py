"""From inside the containers to this machine: names to loopback, ports to free ones, paths to a folder."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path

from compose.document import InvalidComposition, Service

_ANYWHERE = ("0.0.0.0", "127.0.0.1", "localhost")
_PORT_FLAG = re.compile(r"(--?[\w.-]*port[\w.-]*)=(\d+)")


class Ports:
    """The port on this machine of every port of every service: the published one, else a free one."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services
        self._known: dict[tuple[str, int], int] = {}
        # Held until all are known, so that no port is given twice.
        self._held: list[socket.socket] = []

    def of(self, service: str, port: int) -> int:
        if (service, port) not in self._known:
            published = self._services[service].published.get(port, 0)
            self._known[service, port] = published or self._free()
        return self._known[service, port]

    def release(self) -> None:
        """Let the processes have them."""
        for held in self._held:
            held.close()

    def _free(self) -> int:
        held = socket.socket()
        held.bind(("127.0.0.1", 0))
        self._held.append(held)
        port: int = held.getsockname()[1]
        return port


class Translation:
    """The text of one service's command, environment and files, as it is true on this machine.

    `state` keeps what containers would: `volumes/`, and for each service `files/` and `tmp/`.
    """

    def __init__(self, service: Service, services: Mapping[str, Service], ports: Ports, state: Path) -> None:
        self._service, self._ports = service, ports
        self._hosts = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, (*services, *_ANYWHERE)))}):(\d+)(?!\d)")
        self._paths: dict[str, Path] = {}
        for place in service.tmpfs:
            self._paths[place] = _folder(state / service.name / "tmp" / place.strip("/"))
        for mount in service.mounts:
            if isinstance(mount.source, str):
                self._paths[mount.target] = _folder(state / "volumes" / mount.source)
            elif not mount.source.is_file():
                hint = "; scripts/compose-secrets makes it" if mount.target.startswith("/run/secrets/") else ""
                raise InvalidComposition(f"{service.name} needs the file {mount.source}{hint}")
            elif mount.target.startswith("/run/secrets/"):
                self._paths[mount.target] = mount.source.resolve()
            else:
                self._paths[mount.target] = state / service.name / "files" / mount.target.strip("/")
                # A folder that holds mounted files may be named, too; /etc and /opt hold others.
                for folder in Path(mount.target).parents:
                    if len(folder.parts) > 2:
                        self._paths.setdefault(str(folder), state / service.name / "files" / str(folder).strip("/"))
        alternatives = "|".join(re.escape(path) for path in sorted(self._paths, key=len, reverse=True))
        self._path = re.compile(rf"(?<![\w./-])({alternatives})(?![\w-])") if alternatives else None

    def write_files(self) -> None:
        """Write the mounted files as they are true here."""
        for mount in self._service.mounts:
            if isinstance(mount.source, Path) and not mount.target.startswith("/run/secrets/"):
                path = self._paths[mount.target]
                _folder(path.parent)
                path.write_text(self.text(mount.source.read_text()))

    def command(self) -> list[str]:
        """The arguments after the entry point's program."""
        given = (*self._service.entrypoint[1:], *self._service.command)
        return [self.text(_PORT_FLAG.sub(self._flag, argument)) for argument in given]

    def environment(self) -> dict[str, str]:
        return {
            name: str(self._own(int(value))) if name.endswith("PORT") else self.text(value)
            for name, value in self._service.environment.items()
        }

    def text(self, text: str) -> str:
        text = self._hosts.sub(self._address, text).replace("0.0.0.0", "127.0.0.1")
        return self._path.sub(lambda found: str(self._paths[found[1]]), text) if self._path else text

    def _address(self, found: re.Match[str]) -> str:
        service = self._service.name if found[1] in _ANYWHERE else found[1]
        return f"127.0.0.1:{self._ports.of(service, int(found[2]))}"

    def _flag(self, found: re.Match[str]) -> str:
        # 0 turns a listener off.
        return f"{found[1]}={self._own(int(found[2])) if int(found[2]) else 0}"

    def _own(self, port: int) -> int:
        return self._ports.of(self._service.name, port)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
