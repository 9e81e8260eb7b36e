"""Processes in place of containers: started when what they depend on is there, ended in the opposite order."""

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

_LOOK_EVERY = 0.1
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
        if self._health_url is None:
            return True
        try:
            with urllib.request.urlopen(self._health_url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_healthy(self, patience: float, others: "list[Process]") -> None:
        """Raises Failed, also if another process ends with an error meanwhile."""
        started = time.monotonic()
        while not self.healthy():
            for process in others:
                process.check()
            if self.ended() is not None:
                raise Failed(f"{self.name} ended before it was healthy; {self._tail()}")
            if time.monotonic() - started > patience:
                raise Failed(f"{self.name} is not healthy after {patience:g} s; {self._tail()}")
            time.sleep(_LOOK_EVERY)

    def wait_completed(self) -> None:
        """Raises Failed."""
        self._process.wait()
        self.check()

    def stop(self, how: str, grace: float) -> int:
        """Its exit code, after that signal or, when `grace` seconds have passed, SIGKILL. Nothing of it stays."""
        try:
            if self.ended() is None:
                self._process.send_signal(signal.Signals[how])
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(grace)
        finally:
            # A container's end would be that of its other processes, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL:]
        return "\n".join([f"the end of {self.log}:", *(f"    {line}" for line in lines)])


def watch(processes: list[Process]) -> None:
    """Until one ends with an error, which raises Failed."""
    while True:
        for process in processes:
            process.check()
        time.sleep(_LOOK_EVERY)
