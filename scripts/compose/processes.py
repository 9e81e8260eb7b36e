"""Processes in place of containers: started when what they depend on is there, ended in the opposite order."""

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from compose.signals import LOOK_EVERY

_TAIL = 15


class Failed(Exception):
    """A process ended, or was not healthy in time."""


class Process:
    """One service's process, in a session of its own: Ctrl-C in the terminal reaches nobody but the script."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], folder: Path, health_url: str | None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self._health_url = name, health_url
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Raises Failed if it ended with an error."""
        if self.ended():
            raise Failed(f"{self.name} ended with code {self.ended()}; {self._tail()}")

    def healthy(self) -> bool:
        """Whether its health check passes; True if it has none."""
        if self._health_url is None:
            return True
        try:
            with urllib.request.urlopen(self._health_url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_healthy(self, patience: float, look: Callable[[], None]) -> None:
        """At most so many seconds; `look` is called in between, and may raise. Raises Failed."""
        started = time.monotonic()
        while not self.healthy():
            look()
            if self.ended() is not None:
                raise Failed(f"{self.name} ended before it was healthy; {self._tail()}")
            if time.monotonic() - started > patience:
                raise Failed(f"{self.name} is not healthy after {patience:g} s; {self._tail()}")

    def wait_completed(self, look: Callable[[], None]) -> None:
        """`look` is called in between, and may raise. Raises Failed."""
        while self.ended() is None:
            look()
        self.check()

    def stop(self, how: str, grace: float, hurry: Callable[[], bool]) -> int:
        """Its exit code, after that signal, or SIGKILL once `grace` seconds have passed or `hurry` is true."""
        if self.ended() is None:
            self._process.send_signal(signal.Signals[how])
            deadline = time.monotonic() + grace
            while self.ended() is None and time.monotonic() < deadline and not hurry():
                time.sleep(LOOK_EVERY)
        # A container's end would be that of its other processes, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL:]
        return "\n".join([f"the end of {self.log}:", *(f"    {line}" for line in lines)])
