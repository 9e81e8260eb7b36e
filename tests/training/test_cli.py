"""`elbod train` as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from elbod_store import ModelStore, UnknownModel

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
        out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    assert out.splitlines()[-1].startswith("published digits@1, now digits@production")
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
