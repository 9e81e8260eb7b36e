"""schemathesis: requests made of the OpenAPI document, and answers held to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.conftest import SEED, Budget
from tests.fuzz.honest import unharmed
from tests.support import Server, bearer, find_program

ROOT = Path(__file__).parents[2]
_CONFIG = Path(__file__).with_name("schemathesis.toml")


def run_schemathesis(server: Server, seconds: float, folder: Path, *arguments: str) -> None:
    """All checks but `ignored_auth`; fails with the report if one does."""
    command = [find_program("schemathesis"), "--config-file", str(_CONFIG), "run", f"{server.url}/openapi.json"]
    command += ["--max-time", str(int(seconds)), "--seed", str(SEED), "--continue-on-failure", "--no-color"]
    variables = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks"}
    run = subprocess.run(
        [*command, "--generation-database", "none", *arguments],
        env=os.environ | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds + 300,
    )
    sys.stdout.write(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.share(0.2)
def test_a_server_without_keys_keeps_to_its_document(plain: Server, budget: Budget, tmp_path: Path) -> None:
    with unharmed(plain):
        run_schemathesis(plain, budget.seconds, tmp_path)


@pytest.mark.share(0.2)
def test_a_server_with_keys_keeps_to_its_document(guarded: tuple[Server, str], budget: Budget, tmp_path: Path) -> None:
    server, key = guarded
    header = bearer(key)
    with unharmed(server, **header):
        run_schemathesis(server, budget.seconds, tmp_path, "-H", f"Authorization: {header['Authorization']}")
