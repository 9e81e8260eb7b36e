"""Strict type checkers infer what typical calls return, and find the mistakes in them."""

import subprocess
import sys
from pathlib import Path

from tests.support import HANG

CALLS = Path(__file__).parent / "typing" / "calls.py"


def check(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=CALLS.parent, capture_output=True, text=True, timeout=HANG
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_agrees(tmp_path: Path) -> None:
    configuration = tmp_path / "mypy.ini"
    configuration.write_text("[mypy]\nstrict = True\n")
    check("mypy", "--config-file", str(configuration), "--cache-dir", str(tmp_path), CALLS.name)


def test_pyright_agrees() -> None:
    check("basedpyright", "--project", ".", "--pythonpath", sys.executable)
