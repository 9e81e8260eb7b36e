"""Two processes that `torchrun` starts train one model: one publisher, and the weights of a single process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_safetensors

from elbod.training import recipes
from elbod.training.worker import run_training
from elbod_store import Manifest, ModelStore
from tests.support import ELBOD, HANG

TRAINER = Path(__file__).with_name("trainer.py")
SHARED = ("dropout=0", "epochs=3", "batch_size=63", "num_samples=4", "num_importance_samples=4", "evaluate_every=1")
SETTINGS = {
    "digits": ("hidden=16", "latent_dim=2", "importance_epochs=1", *SHARED),
    # Levels are placed over the rows of all processes, and their profile follows all of them.
    "digits-diffusion": ("network=mlp", "width=16", "blocks=1", "num_levels=6", "schedule=learned", *SHARED),
}
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

pytestmark = pytest.mark.slow


def two(program: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*LAUNCH, str(program), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=HANG, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def train(name: str, folder: Path) -> Manifest:
    settings = [part for setting in SETTINGS[name] for part in ("--set", setting)]
    done = two(ELBOD, "train", "--recipe", name, "--store", str(folder), "--publish-every", "2", *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"published {name}@2") == 1, done.stdout
    store = ModelStore.open(folder)
    assert store.versions(name) == [1, 2]
    return store.manifest(name, 2)


def weights(store: ModelStore, manifest: Manifest) -> dict[str, torch.Tensor]:
    return load_safetensors(store.read(manifest.weights))


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_give_the_weights_of_one_up_to_rounding_and_their_own_bytes_again(store, tmp_path, name):
    single = run_training(recipes.override(recipes.recipe(name), SETTINGS[name]), store, publish_every=2)

    first, again = train(name, tmp_path / "first"), train(name, tmp_path / "again")

    assert first.digest == again.digest
    assert first.training["curve"] == again.training["curve"]
    theirs, mine = weights(ModelStore.open(tmp_path / "first"), first), weights(store, single)
    assert theirs.keys() == mine.keys()
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert first.metrics["elbo"] == pytest.approx(single.metrics["elbo"], abs=single.metrics["standard_error"] / 10)
    for ours, alone in zip(first.training["curve"], single.training["curve"], strict=True):
        assert (ours["epoch"], ours["step"]) == (alone["epoch"], alone["step"])
        assert [ours[key] for key in ("objective", "elbo")] == pytest.approx(
            [alone["objective"], alone["elbo"]], rel=1e-4
        )


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_of_two_processes_that_is_killed_goes_on_with_two_to_the_same_versions(store, tmp_path, name):
    expected = ModelStore.open(tmp_path / "uninterrupted")
    done = two(TRAINER, name, expected.objects.url, "600")
    assert done.returncode == 0, done.stderr

    killed = two(TRAINER, name, store.objects.url, "0.05", "new", "save:entry", "3")
    (run,) = store.runs()
    command = [sys.executable, str(TRAINER), name, store.objects.url, "0", run]
    alone = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    done = two(TRAINER, name, store.objects.url, "0", run)

    assert killed.returncode == 1
    assert "process 1: another process of this training ended, its own message says why" in killed.stderr
    assert alone.returncode == 1
    assert f"the run {run} has processes 2, this is 1: start as many with torchrun" in alone.stderr
    assert done.returncode == 0, done.stderr
    digests = [[s.manifest(name, v).digest for v in s.versions(name)] for s in (expected, store)]
    assert digests[0] == digests[1]
    assert len(digests[0]) > 1


def test_the_threads_of_a_group_end_with_it(tmp_path):
    """Those that outlive it meet the interpreter's end, and may abort a process that has done its work."""
    program = tmp_path / "join.py"
    program.write_text(
        "import pathlib, sys, torch\n"
        "from elbod.training.parallel import join\n"
        "def threads():\n"
        "    names = [path.read_text() for path in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        "    return [name.strip() for name in names if 'gloo' in name]\n"
        "with join(torch.device('cpu')) as group:\n"
        "    weight = torch.nn.Parameter(torch.ones(3))\n"
        "    optimizer = torch.optim.Adam([weight])\n"
        "    weight.sum().backward()\n"
        "    group.add_up([weight.grad])\n"
        "    optimizer.step()\n"
        "    assert threads(), 'there were none to begin with'\n"
        "sys.stdout.write(f'left: {threads()}\\n')\n"  # one write: the two share a pipe
    )

    done = two(program)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["left: []"] * 2


def test_processes_that_would_train_different_things_end_with_one_line_each(tmp_path):
    program = tmp_path / "different.py"
    program.write_text(
        "import os, sys, runpy\n"
        f"sys.argv = ['elbod', 'train', '--recipe', 'digits', '--store', {str(tmp_path / 'store')!r}, "
        "'--seed', os.environ['RANK']]\n"
        f"runpy.run_path({str(ELBOD)!r}, run_name='__main__')\n"
    )

    done = two(program)

    assert done.returncode == 1
    for rank in (0, 1):
        line = f"elbod: process {rank}: the processes of this training differ in recipe, data, seed and machine"
        assert done.stderr.count(line) == 1, done.stderr
    assert ModelStore.open(tmp_path / "store").runs() == []


def test_a_signal_saves_the_run_once_and_ends_both_processes(store, tmp_path):
    command = [*LAUNCH, str(ELBOD), "train", "--recipe", "digits", "--epochs", "100000"]
    command += ["--set", "hidden=16", "--store", store.objects.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if line.startswith("epoch"):
                break
        launcher.send_signal(signal.SIGTERM)
        _, err = launcher.communicate(timeout=60)

    (run,) = store.runs()
    assert err.count(f"`elbod train --resume {run}` goes on") == 1
    assert store.run(run).step > 0
    assert "another process" not in err
