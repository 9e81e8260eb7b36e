"""`elbod train` as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from elbod_store import ModelStore, UnknownModel
from tests.support import ELBOD, HANG, wait_for

TRAIN = """
import typer
from elbod.cli.train import train

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(train)
app()
"""

HEAVY = ["torch", "numpy", "sklearn", "elbod_store"]

SMALL = ["--set", "hidden=16", "--set", "latent_dim=2", "--set", "num_samples=2", "--set", "num_importance_samples=2"]


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TRAIN, "--store", str(tmp_path / "store"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "COLUMNS": "200"})


def test_a_recipe_is_trained_and_published_under_an_alias(tmp_path):
    with start(tmp_path, "--recipe", "digits", "--epochs", "2", "--alias", "production", *SMALL) as process:
        out, err = process.communicate(timeout=HANG)

    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "digits@1 is now digits@production"
    assert ModelStore.open(tmp_path / "store").resolve("digits@production").training["recipe"]["epochs"] == 2


def test_ctrl_c_publishes_nothing_half_done(tmp_path):
    with start(tmp_path, "--recipe", "digits", "--epochs", "100000", "--publish-every", "20", *SMALL) as process:
        for line in process.stdout:
            if line.startswith("published digits@1:"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    store = ModelStore.open(tmp_path / "store")
    assert process.returncode == 130
    assert err.startswith("interrupted: what was published stays, and the run digits-")
    assert len(err.splitlines()) == 1
    # Every version that is visible is whole.
    for version in store.versions("digits"):
        store.read(store.manifest("digits", version).weights)


def test_ctrl_c_before_the_first_publication_leaves_no_model(tmp_path):
    with start(tmp_path, "--recipe", "digits", "--epochs", "100000", *SMALL) as process:
        assert process.stdout.readline().startswith("training digits")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 130
    with pytest.raises(UnknownModel):
        ModelStore.open(tmp_path / "store").versions("digits")


def run_id(process):
    """The id that a worker prints at its start."""
    for line in process.stdout:
        if line.startswith("run "):
            return line.split()[1].rstrip(":")
    return pytest.fail(process.stderr.read())


def test_sigterm_saves_the_run_and_resume_goes_on(tmp_path):
    store = ModelStore.open(tmp_path / "store")
    with start(tmp_path, "--recipe", "digits", "--epochs", "100000", "--alias", "production", *SMALL) as process:
        run = run_id(process)
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"`elbod train --resume {run}` goes on" in err
    saved = store.run(run)
    assert saved.step > 0

    with start(tmp_path, "--resume", run) as process:
        assert run_id(process) == run
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert store.run(run).step >= saved.step
    assert store.run(run).training["alias"] == "production"


def test_a_second_worker_of_a_run_takes_it_over_and_the_first_stops_with_one_line(tmp_path):
    store = ModelStore.open(tmp_path / "store")
    options = ["--save-every", "0.001"]
    command = [ELBOD, "train", "--store", str(tmp_path / "store"), *options]
    with start(tmp_path, "--recipe", "digits", "--epochs", "100000", *SMALL, *options) as first:
        run = run_id(first)
        with subprocess.Popen([*command, "--resume", run], stdout=subprocess.PIPE, text=True) as second:
            assert run_id(second) == run
            _, err = first.communicate(timeout=60)
            before = store.run(run).number
            wait_for(lambda: store.run(run).number > before)
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 143

    assert first.returncode == 1
    assert f"the run {run} is driven by another worker" in err.splitlines()[-1]


def test_resume_without_a_run_looks_for_one_of_the_same_training(tmp_path):
    command = [ELBOD, "train", "--store", str(tmp_path / "store"), "--resume", "--recipe", "digits", "--epochs", "1"]

    done = subprocess.run([*command, *SMALL], capture_output=True, text=True, timeout=HANG)

    assert done.returncode == 0, done.stderr
    assert "no unfinished run of digits by this recipe on these data: a new one begins" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--resume", "digits-0"], 1, "elbod: there is no run 'digits-0' in file://"),
        (["--resume", "../x"], 1, "elbod: '../x' is no run id"),
        (["--resume", "digits-0", "--seed", "3"], 2, "a run resumed by its id alone takes --store"),
        (["--resume"], 2, "give either --recipe"),
    ],
)
def test_a_run_that_is_not_there_or_not_enough_said_is_one_clear_line(tmp_path, arguments, code, message):
    command = [ELBOD, "train", "--store", str(tmp_path / "store"), *arguments]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"COLUMNS": "200"})

    assert done.returncode == code
    assert message in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", ["", "--recipe digits --family vae", "--family vae", "--family vae --likelihood bernoulli"]
)
def test_a_command_that_says_too_little_or_too_much_is_a_usage_error(tmp_path, arguments):
    with start(tmp_path, *arguments.split()) as process:
        _, err = process.communicate(timeout=60)

    assert process.returncode == 2
    assert "--family" in err


def test_usage_is_answered_without_importing_torch():
    code = f"import sys, json; import elbod.cli.train; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert json.loads(out) == []
