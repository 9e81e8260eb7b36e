"""Nodes of a Ray cluster as processes of this machine, and the processes below them."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support import free_ports, wait_for


class Node:
    """`ray start`: a cluster of its own, or one more node of another's."""

    def __init__(self, folder: Path, head: "Node | None", variables: Mapping[str, str], cores: int = 1) -> None:
        self._log = folder / "log"
        # Sockets lie below it, whose path must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="ray"))
        self.port = free_ports(1)[0] if head is None else head.port
        # A token of this cluster's own, and not the user's.
        self.token = "".join("0123456789abcdef"[byte % 16] for byte in os.urandom(32)) if head is None else head.token
        place = (
            ["--head", f"--port={self.port}", f"--temp-dir={self._folder}", "--include-dashboard=false"]
            if head is None
            else [f"--address=127.0.0.1:{self.port}"]
        )
        command = [str(Path(sys.executable).with_name("ray")), "start", *place, f"--num-cpus={cores}", "--block"]
        with self._log.open("wb") as log:
            env = os.environ | self.variables | dict(variables)
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        wait_for(lambda: "Ray runtime started" in self._log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self._log.read_text()

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs to join."""
        return {
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def processes(self, name: str) -> list[int]:
        """The ids of the node's processes whose command line begins like that."""
        return [pid for pid in _below(self.process.pid) if _command(pid).startswith(name)]

    def kill(self, how: signal.Signals) -> None:
        """End the whole node at once, as a lost machine does."""
        for pid in [*_below(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        self.process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)


def _below(pid: int) -> list[int]:
    """The descendants of a process."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything.
            parent = int(re.split(r"\) . ", path.read_text(), maxsplit=1)[1].split()[0])
            children.setdefault(parent, []).append(int(path.parent.name))
    return list(_walk(children, pid))


def _walk(children: Mapping[int, list[int]], pid: int) -> Iterator[int]:
    for child in children.get(pid, []):
        yield child
        yield from _walk(children, child)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""
