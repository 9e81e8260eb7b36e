"""The files in which workers leave their metrics for each other: one folder a server, in memory-mapped pieces.

Writing to a mapped file on a full disk ends the process (SIGBUS). So the files lie in memory where the system has a
folder for that, and nobody writes without room.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from elbod.errors import StartupError

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_IN_MEMORY = "/dev/shm"
# More than all workers write in a second.
_ROOM = 4 * 1024**2


@contextlib.contextmanager
def worker_files() -> Iterator[None]:
    """A fresh folder for the workers that start inside, removed at the end. Raises StartupError if there is no room."""
    folder = _folder()
    os.environ[_VARIABLE] = folder
    try:
        yield
    finally:
        del os.environ[_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> str:
    places = [os.environ["TMPDIR"]] if "TMPDIR" in os.environ else [_IN_MEMORY, tempfile.gettempdir()]
    for place in places:
        with contextlib.suppress(OSError):
            if has_room(place):
                return tempfile.mkdtemp(prefix="elbod-metrics-", dir=place)
    raise StartupError(f"no room for the metrics' files in {' or '.join(places)}: free some, or set TMPDIR")


def has_room(place: str | None = None) -> bool:
    """Whether files in that folder may grow; of a worker's own folder by default, True if it has none."""
    place = place or os.environ.get(_VARIABLE)
    if place is None:
        return True
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize >= _ROOM


def forget_gauges(pid: int) -> None:
    """A worker has died: its queue and its memory count no more, what it did still counts."""
    mark_process_dead(pid)


def remove_orphaned() -> None:
    """Called by a worker without a supervisor at its end: the last one removes the folder."""
    folder = Path(os.environ[_VARIABLE])
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            pid = path.stem.rpartition("_")[2]
            if pid == str(os.getpid()) or not Path("/proc", pid).exists():
                path.unlink()
        folder.rmdir()
