"""Jobs on a Ray cluster of two nodes: the files of a local run, whoever dies."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elbod_store import ModelStore
from tests.scale.conftest import Elbod
from tests.scale.nodes import Node
from tests.support import ELBOD, HANG, wait_for

pytest.importorskip("ray", reason="needs Ray: make install-ray")

pytestmark = pytest.mark.slow

# What the killed job would take alone: some seconds of a core.
LONG = ("score", "--model", "levels", "--importance-samples", "1024", "--data", "x.npy", "--part-rows", "20", "--json")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A cluster of one core, for all tests here."""
    node = Node(tmp_path_factory.mktemp("head"), None, {})
    yield node
    node.kill(signal.SIGKILL)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "command",
    [
        ("score", "--model", "levels", "--data", "x.npy", "--importance-samples", "16"),
        ("encode", "--model", "levels", "--data", "x.npz", "--num-samples", "2"),
        ("sample", "200", "--model", "labels", "--label", "2"),
    ],
    ids=lambda command: command[0],
)
def test_the_files_of_ray_are_those_of_one_machine(
    elbod: Elbod, head: Node, tmp_path: Path, rows: Any, command: tuple[str, ...]
) -> None:
    np.save(tmp_path / "x.npy", rows[:200])
    np.savez(tmp_path / "x.npz", x=rows[:200])
    flags = ("--seed", "9", "--first-index", "50", "--part-rows", "60")

    here = elbod(*command, *flags, "--output", "here")
    there = elbod(*command, *flags, "--output", "there", "--engine", "ray", **head.variables)

    assert here.returncode == 0, here.stderr
    assert there.returncode == 0, there.stderr
    assert "1 nodes, 1 cores" in there.stderr
    assert len(files(tmp_path / "here")) == 5
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert there.stdout.replace("/there", "/here") == here.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("score", "--data", "x.npy", "--num-steps", "2", "--importance-samples", "3", "--include", "bound_map"),
        ("score", "--data", "x.npy", "--num-samples", "3", "--num-levels", "2"),
        ("encode", "--data", "x.npy", "--num-samples", "2", "--num-steps", "2", "--level", "4"),
        ("sample", "40", "--num-steps", "2", "--level", "0", "--sampler", "ddim", "--trajectory", "2"),
    ],
    ids=["paths", "levels", "encode", "sample"],
)
def test_the_files_of_a_model_with_levels_are_those_of_one_machine(
    elbod: Elbod, chain_store: ModelStore, head: Node, tmp_path: Path, levels_rows: Any, command: tuple[str, ...]
) -> None:
    np.save(tmp_path / "x.npy", levels_rows)
    flags = ("--model", "diffusion", "--seed", "9", "--first-index", "50", "--part-rows", "17")
    variables = head.variables | {"ELBOD_STORE": chain_store.objects.url}

    here = elbod(*command, *flags, "--output", "here", **variables)
    there = elbod(*command, *flags, "--output", "there", "--engine", "ray", **variables)

    assert here.returncode == 0, here.stderr
    assert there.returncode == 0, there.stderr
    assert len(files(tmp_path / "here")) == 4
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert there.stdout.replace("/there", "/here") == here.stdout


def test_every_row_is_there_once_though_a_worker_and_then_a_node_are_killed(
    elbod: Elbod,
    served_store: ModelStore,
    head: Node,
    start_node: Callable[..., Node],
    tmp_path: Path,
    rows: Any,
) -> None:
    np.save(tmp_path / "x.npy", rows)
    second = start_node(head)
    env = os.environ | head.variables | {"ELBOD_STORE": served_store.objects.url}
    command = [ELBOD, *LONG, "--engine", "ray", "--output", "killed"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)

    def parts() -> int:
        return len(list((tmp_path / "killed").glob("part-*.parquet"))) if (tmp_path / "killed").exists() else 0

    def workers(node: Node) -> list[int]:
        return node.processes("ray::MapWorker")

    wait_for(lambda: parts() >= 2 and bool(workers(head)) and bool(workers(second)))
    os.kill(workers(head)[0], signal.SIGKILL)
    before = parts()
    wait_for(lambda: parts() > before)
    second.kill(signal.SIGKILL)
    assert parts() < 35
    assert job.wait(HANG) == 0, (tmp_path / "log").read_text()

    assert elbod(*LONG, "--output", "alone").returncode == 0
    assert len(files(tmp_path / "alone")) == 36
    assert files(tmp_path / "killed") == files(tmp_path / "alone")


def test_a_node_of_another_version_is_refused_before_work_starts(
    elbod: Elbod, head: Node, start_node: Callable[..., Node], tmp_path: Path, rows: Any
) -> None:
    np.save(tmp_path / "x.npy", rows)
    other = tmp_path / "elbod-9.9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: elbod\nVersion: 9.9.9\n")
    start_node(head, PYTHONPATH=str(tmp_path))
    done = elbod(*LONG, "--engine", "ray", "--output", "out", **head.variables)
    assert done.returncode == 1
    assert "has elbod 9.9.9, here it is" in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_wrong_row_ends_the_job_with_its_number(elbod: Elbod, head: Node, tmp_path: Path, rows: Any) -> None:
    wrong = rows[:100].copy()
    wrong[77] = 99
    np.save(tmp_path / "x.npy", wrong)
    flags = ("--model", "levels", "--data", "x.npy", "--engine", "ray", "--output", "out", "--part-rows", "30")
    done = elbod("score", *flags, **head.variables)
    assert done.returncode == 1
    assert "x[77] has value 99" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_is_not_there_is_named(elbod: Elbod, tmp_path: Path) -> None:
    done = elbod("sample", "5", "--model", "levels", "--engine", "ray", "--output", "out", RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 1
    assert "cannot reach the Ray cluster at 127.0.0.1:1 (RAY_ADDRESS)" in done.stderr
