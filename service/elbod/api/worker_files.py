"""The files in which workers leave their metrics for each other: one folder a server, in memory-mapped pieces."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextlib.contextmanager
def worker_files() -> Iterator[None]:
    """A fresh folder for the workers that start inside, removed at the end."""
    folder = tempfile.mkdtemp(prefix="elbod-metrics-")
    os.environ[_VARIABLE] = folder
    try:
        yield
    finally:
        del os.environ[_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)


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
