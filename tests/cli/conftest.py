"""The installed command as a process, in a folder of its own."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ELBOD, HANG, call_elbod

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `elbod` with these arguments and ELBOD_* variables in `tmp_path`."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        # Wide, so that no line of a usage error is folded.
        env = os.environ | {"COLUMNS": "200"} | variables
        return subprocess.run([ELBOD, *arguments], capture_output=True, text=True, timeout=HANG, cwd=tmp_path, env=env)

    return run


@pytest.fixture
def run_here(tmp_path: Path) -> Run:
    """`run` without a process of its own."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return call_elbod(arguments, tmp_path, {"COLUMNS": "200"} | variables)

    return run
