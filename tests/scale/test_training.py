"""`elbod train --engine ray`: the version of `torchrun`, published once, whichever worker dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from elbod_store import Manifest, ModelStore
from tests.scale.nodes import Node
from tests.support import ELBOD, HANG, wait_for

pytest.importorskip("ray", reason="needs Ray: make install-ray")

pytestmark = pytest.mark.slow

SETTINGS = ("hidden=16", "latent_dim=2", "epochs=6", "batch_size=63", "evaluate_every=1")
TRAIN = ["train", "--recipe", "digits", "--save-every", "0", *(p for each in SETTINGS for p in ("--set", each))]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A cluster of two cores."""
    node = Node(tmp_path_factory.mktemp("head"), None, {}, cores=2)
    yield node
    node.kill(signal.SIGKILL)


def on_ray(head: Node, folder: Path, *flags: str) -> "subprocess.Popen[bytes]":
    """Trains into `store`, and says it in `log`."""
    command = [ELBOD, *TRAIN, "--engine", "ray", "--processes", "2", "--store", str(folder / "store"), *flags]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, env=os.environ | head.variables, stdout=log, stderr=log)


def only_version(folder: Path) -> Manifest:
    store = ModelStore.open(folder)
    assert store.versions("digits") == [1]
    return store.manifest("digits", 1)


def test_ray_trains_the_version_of_torchrun_though_a_worker_is_killed(head: Node, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", ELBOD, *TRAIN]
    done = subprocess.run(
        [*launch, "--store", str(tmp_path / "torchrun")],
        capture_output=True,
        text=True,
        timeout=HANG,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    expected = only_version(tmp_path / "torchrun")

    job, log = on_ray(head, tmp_path), tmp_path / "log"
    states = tmp_path / "store" / "runs"
    wait_for(lambda: job.poll() is not None or len(list(states.glob("*/*.json"))) >= 3)
    os.kill(head.processes("ray::RayTrainWorker")[0], signal.SIGKILL)
    assert job.wait(HANG) == 0, log.read_text()
    assert "resumed from step" in log.read_text()
    found = only_version(tmp_path / "store")
    assert found.digest == expected.digest
    assert found.training["curve"] == expected.training["curve"]


def test_what_is_wrong_with_a_recipe_is_one_line(head: Node, tmp_path: Path) -> None:
    job = on_ray(head, tmp_path, "--set", "activation=magic")
    assert job.wait(HANG) == 1
    said = (tmp_path / "log").read_text()
    assert [line for line in said.splitlines() if line.startswith("elbod: ")][-1].count("magic") == 1
    assert "Traceback" not in said


def test_ctrl_c_says_how_to_go_on(head: Node, tmp_path: Path) -> None:
    job, log = on_ray(head, tmp_path, "--set", "epochs=100000"), tmp_path / "log"
    states = tmp_path / "store" / "runs"
    wait_for(lambda: job.poll() is not None or len(list(states.glob("*/*.json"))) >= 2)
    job.send_signal(signal.SIGINT)
    assert job.wait(60) == 130, log.read_text()
    run = next(states.iterdir()).name
    assert (
        f"interrupted: `elbod train --engine ray --resume {run}` goes on from the newest saved state" in log.read_text()
    )
    wait_for(lambda: not head.processes("ray::RayTrainWorker"))


def test_more_processes_than_cores_are_refused(head: Node, tmp_path: Path) -> None:
    job = on_ray(head, tmp_path, "--processes", "3")
    assert job.wait(60) == 1
    assert "--processes 3: each takes 1 cores, this is a Ray cluster" in (tmp_path / "log").read_text()
