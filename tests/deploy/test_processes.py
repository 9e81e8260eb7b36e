"""Processes in place of containers."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compose.processes import Failed, Process
from tests.support import wait_for

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def never() -> bool:
    return False


def look() -> None:
    time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts this Python with a text; ends what is left."""
    running: list[Process] = []

    def process(text: str, health_url: str | None = None) -> Process:
        running.append(Process("it", [sys.executable, "-c", text], os.environ, tmp_path / "it", health_url))
        return running[-1]

    yield process
    for left in running:
        left.stop("SIGKILL", 10, never)


def test_a_process_that_does_not_listen_is_killed_when_its_grace_is_over(start: Callable[..., Process]) -> None:
    process = start(DEAF)
    wait_for(lambda: "deaf" in process.log.read_text())
    started = time.monotonic()
    assert process.stop("SIGTERM", 0.5, never) == -9
    assert time.monotonic() - started >= 0.5


def test_whoever_is_in_a_hurry_does_not_wait_for_it(start: Callable[..., Process]) -> None:
    process = start(DEAF)
    wait_for(lambda: "deaf" in process.log.read_text())
    assert process.stop("SIGTERM", 3600, lambda: True) == -9


def test_what_a_process_has_started_ends_with_it(start: Callable[..., Process]) -> None:
    process = start(PARENT)
    wait_for(lambda: process.log.read_text().endswith("\n"))
    child = Path("/proc") / process.log.read_text().strip()
    assert child.exists()
    assert process.stop("SIGTERM", 30, never) == -15
    # Nobody may be there to bury it.
    wait_for(lambda: not child.exists() or ") Z " in (child / "stat").read_text())


def test_a_process_that_is_not_healthy_in_time_is_named(start: Callable[..., Process]) -> None:
    process = start(DEAF, "http://127.0.0.1:9/")
    with pytest.raises(Failed, match=r"it is not healthy after 0\.3 s; the end of "):
        process.wait_healthy(0.3, look)


def test_a_process_that_ends_before_it_is_healthy_is_named_even_without_an_error(
    start: Callable[..., Process],
) -> None:
    process = start("print('good bye')", "http://127.0.0.1:9/")
    with pytest.raises(Failed, match=r"it ended before it was healthy; the end of (.|\n)*good bye"):
        process.wait_healthy(60, look)


def test_only_an_end_without_error_completes(start: Callable[..., Process]) -> None:
    start("pass").wait_completed(look)
    with pytest.raises(Failed, match="it ended with code 3"):
        start("raise SystemExit(3)").wait_completed(look)
