"""Hostile folders for `elbod models import`: imported or refused in one line, and no file outside them is read."""

import json
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elbod_store import ModelStore
from tests.fuzz.conftest import Budget
from tests.support import ELBOD, publish_kinds

# A process that takes longer hangs: on a pipe, or on a file without an end.
_PATIENCE = 120
_SECRET = "the content of a file that nobody shared"
_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e999,
    2**70,
    "",
    "x" * 100_000,
    [],
    [[[]]],
    {},
    {"a": []},
    "../x",
    "\0",
    "\ud800",
)
_FILES = ("model.safetensors", "config.json", "README.md", "reference.safetensors", "calibration.safetensors")

Change = Callable[[Path, Path, random.Random], None]


def _linked(path: Path, secret: Path, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(rng.choice((secret, Path("/dev/zero"), path, secret.parent)))


def _piped(path: Path, secret: Path, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _foldered(path: Path, secret: Path, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _damaged(path: Path, secret: Path, rng: random.Random) -> None:
    raw = path.read_bytes() if path.exists() else b""
    start = rng.randrange(len(raw) + 1)
    path.write_bytes(rng.choice((raw[:start], raw[:start] + rng.randbytes(5) + raw[start + 5 :], b"", raw * 2)))


def _sparse(path: Path, secret: Path, rng: random.Random) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(2**40)


def _odd_config(path: Path, secret: Path, rng: random.Random) -> None:
    config = path.with_name("config.json")
    try:
        fields = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return
    if not isinstance(fields, dict):
        return
    fields[rng.choice([*fields, "unknown"])] = rng.choice(_ODD)
    config.write_text(rng.choice((json.dumps(fields), json.dumps(rng.choice(_ODD)), "[" * 100_000)))


CHANGES: tuple[Change, ...] = (_linked, _piped, _foldered, _damaged, _sparse, _odd_config, _odd_config)


@pytest.mark.share(0.1)
def test_a_hostile_folder_is_refused_in_one_line_or_imported(tmp_path: Path, budget: Budget) -> None:
    store = publish_kinds(tmp_path / "source")
    secret = tmp_path / "outside" / "secret"
    secret.parent.mkdir()
    secret.write_text(_SECRET)
    store.export("rows@1", tmp_path / "exported")
    target = tmp_path / "target"
    ModelStore.open(target)
    for seed in budget.seeds():
        rng, folder = random.Random(seed), tmp_path / "folder"
        shutil.copytree(tmp_path / "exported", folder)
        for change in rng.sample(CHANGES, rng.choice((1, 1, 2))):
            path = folder / rng.choice(_FILES)
            if not path.is_symlink() and (path.is_file() or not path.exists()):
                change(path, secret, rng)
        _check(
            subprocess.run(
                [ELBOD, "models", "import", str(folder), "--name", "copy", "--store", str(target)],
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                preexec_fn=_bounded,
            ),
            seed,
        )
        shutil.rmtree(folder)
    for path in target.rglob("*"):
        assert not path.is_file() or _SECRET.encode() not in path.read_bytes(), path


def _bounded() -> None:
    """Two gigabytes of memory: a file without an end must not fill this machine."""
    resource.setrlimit(resource.RLIMIT_DATA, (2 * 1024**3, 2 * 1024**3))


def _check(run: "subprocess.CompletedProcess[str]", seed: int) -> None:
    assert run.returncode in (0, 1), (seed, run.stderr)
    assert "Traceback" not in run.stderr, (seed, run.stderr)
    assert run.returncode == 0 or 0 < len(run.stderr.strip()) < 4096, (seed, run.stderr)
