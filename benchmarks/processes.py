"""elbod with some flags and variables, and what /proc says of its processes."""

import contextlib
import fcntl
import os
import select
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import servers
from load import Request
from servers import Kind, NotStarted, Place, Server

# The command has no flag for it: two workers, and flags and variables as by default.
_WITH_SILENCE = """
import sys
from elbod.settings import load_settings
from elbod.supervisor import supervise
settings = load_settings(store=sys.argv[1], port=int(sys.argv[2]), workers=2)
raise SystemExit(supervise(settings, announce=lambda url: None, silence=float(sys.argv[3])))
"""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serve(
    store: str | Path,
    *flags: str,
    port: int | None = None,
    variables: Mapping[str, str] | None = None,
    stderr: int | None = None,
    prefix: tuple[str, ...] = (),
    silence: float | None = None,
) -> Iterator[Server]:
    """`elbod serve` of that store, ready; `prefix` are words before the command. Raises NotStarted.

    silence: seconds after which a worker that does not answer its supervisor is replaced, where not a minute.
    """

    def command(place: Place) -> list[str]:
        if silence is not None:
            return [str(place.python), "-c", _WITH_SILENCE, str(store), str(place.port), str(silence)]
        elbod = str(place.python.with_name("elbod"))
        return [*prefix, elbod, "serve", "--store", str(store), "--port", str(place.port), *flags]

    with tempfile.TemporaryDirectory() as folder:
        kind = Kind("elbod", command, lambda n: Request("/readyz"))
        place = Place(port or servers.free_port(), Path(store), Path(folder), Path(folder), Path(sys.executable))
        with Server("elbod", kind, place, variables, stderr) as server:
            server.wait_until(Request("/readyz"))
            yield server


@contextmanager
def pipe_read_until(stalled: threading.Event) -> Iterator[int]:
    """The writing end of a pipe that somebody reads whenever `stalled` is not set; few lines fill it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    over = threading.Event()

    def drain() -> None:
        while not over.is_set():
            if stalled.is_set():
                over.wait(0.05)
            elif select.select([reader], [], [], 0.1)[0]:
                os.read(reader, 65_536)

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield writer
    finally:
        over.set()
        thread.join()
        os.close(reader)
        os.close(writer)


def workers(supervisor: int) -> list[int]:
    """Worker processes of a supervisor, by number."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        return sorted(pid for pid in map(int, children) if b"spawn_main" in _command(pid) and _state(pid) != "Z")
    return []


def resident(pid: int) -> int:
    """Bytes of memory; 0 when the process is gone."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def descriptors(pid: int) -> int:
    """Open files and sockets; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition held. Raises NotStarted when it did not in time."""
    since = time.monotonic()
    while not condition():
        if time.monotonic() - since > seconds:
            raise NotStarted(f"it did not happen in {seconds:g} s")
        threading.Event().wait(0.02)
    return time.monotonic() - since


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"
