"""The command, and rows that models of `served_store` score."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elbod_store import ModelStore
from tests.scale.nodes import Node
from tests.support import ELBOD, HANG, call_elbod

Elbod = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def elbod(served_store: ModelStore, tmp_path: Path) -> Elbod:
    """Runs `elbod` with these arguments on `served_store` in `tmp_path`, as a process of its own."""

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        env = os.environ | {"COLUMNS": "200", "ELBOD_STORE": served_store.objects.url} | variables
        command = [str(ELBOD), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANG, cwd=tmp_path, env=env)

    return run


@pytest.fixture
def elbod_here(served_store: ModelStore, tmp_path: Path) -> Elbod:
    """`elbod` without a process of its own."""

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return call_elbod(arguments, tmp_path, {"COLUMNS": "200", "ELBOD_STORE": served_store.objects.url} | variables)

    return run


@pytest.fixture
def start(served_store: ModelStore, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts `elbod` in `tmp_path`, its standard error a pipe; killed with the test."""
    with contextlib.ExitStack() as started:

        def run(*arguments: str) -> "subprocess.Popen[str]":
            env = os.environ | {"ELBOD_STORE": served_store.objects.url}
            command = [str(ELBOD), *arguments]
            process = started.enter_context(
                subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
            )
            started.callback(process.kill)
            return process

        yield run


@pytest.fixture(scope="session")
def rows() -> Any:
    """(700, 8, 8) uint8 rows in the support of `levels`."""
    return np.random.default_rng(3).integers(0, 17, (700, 8, 8), dtype=np.uint8)


@pytest.fixture
def start_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Node]]:
    """Starts nodes of Ray clusters, which end with the test."""
    started: list[Node] = []

    def start(head: Node | None = None, **variables: str) -> Node:
        started.append(Node(tmp_path_factory.mktemp("node"), head, variables))
        return started[-1]

    yield start
    for node in reversed(started):
        node.kill(signal.SIGKILL)
