"""Lines to a file descriptor from a thread, so that a pipe that nobody reads, or a slow disk, stops nobody."""

import os
import threading
from collections import deque
from datetime import UTC, datetime

import orjson

_MOST_BYTES = 4 * 1024**2
# Up to so many bytes the kernel writes to a pipe at once (PIPE_BUF): workers share it, and their lines must not mix.
_WRITTEN_AT_ONCE = 4096
# Seconds between two wakes of the thread: each takes the interpreter from the thread that computes.
_COLLECT = 0.05


class LineWriter:
    """Never blocks its callers: when too many lines wait, further ones are dropped, and a later line counts them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Guards all below.
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._idle = True
        self._thread: threading.Thread | None = None
        # Set by those who wait for the lines.
        self._hurry = threading.Event()
        self._dropped = self._reported = 0

    @property
    def dropped(self) -> int:
        """Lines that were never written."""
        return self._dropped

    def write(self, line: bytes) -> None:
        """Write a line, with its end, soon; any thread may call it."""
        with self._changed:
            if self._bytes + len(line) > _MOST_BYTES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="elbod-log", daemon=True)
                self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Wait until all lines are written; False if they were not in time."""
        self._hurry.set()
        with self._changed:
            return self._changed.wait_for(lambda: self._idle and not self._lines, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                self._idle = False
            while lines := self._take():
                self._put(lines)
            self._hurry.wait(_COLLECT)
            self._hurry.clear()

    def _take(self) -> list[bytes]:
        """Lines that fit into one write, or one that is longer."""
        taken: list[bytes] = []
        with self._changed:
            size = 0
            while self._lines and (not taken or size + len(self._lines[0]) <= _WRITTEN_AT_ONCE):
                taken.append(self._lines.popleft())
                size += len(taken[-1])
            self._bytes -= size
            if not taken:
                self._idle = True
                self._changed.notify_all()
        return taken

    def _put(self, lines: list[bytes]) -> None:
        # A log that cannot be written (a full disk, a closed pipe) must not fail anything else.
        try:
            if (dropped := self._dropped - self._reported) > 0:
                self._write_all(_report(dropped))
                self._reported += dropped
            self._write_all(b"".join(lines))
        except OSError:
            with self._changed:
                self._dropped += len(lines)

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]


def _report(dropped: int) -> bytes:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "warning",
        "logger": __name__,
        "message": f"{dropped} lines of the log were dropped: they could not be written fast enough",
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
