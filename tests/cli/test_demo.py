"""`elbod demo`: what it refuses before it trains, and stores that an earlier run did not fill."""

import os
import re
import signal
import subprocess

import pytest

from elbod_store import Draft, ModelStore
from tests.support import ELBOD, LEVELS, draft, publish

DENSITY = {
    "elbo": -3.25,
    "standard_error": 0.5,
    "bits_per_dim": None,
    "bits_per_dim_standard_error": None,
    "baseline": {"log_prob": -4.0, "standard_error": 0.5, "bits_per_dim": None, "bits_per_dim_standard_error": None},
}


def test_a_door_open_to_the_network_is_refused_before_training(run, tmp_path):
    done = run("demo", "--host", "0.0.0.0", "--port", "0")

    assert done.returncode == 1
    assert done.stdout == ""
    assert "--insecure" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "elbod-store").exists()


def published(store: ModelStore, **fields: object) -> None:
    made = draft("digits", LEVELS)
    manifest = store.publish(Draft(**{**vars(made), **fields}))
    store.promote("digits", "production", manifest.version, who="test", why="demo")


def test_a_published_density_is_described_without_bits(run, tmp_path):
    published(ModelStore.open(tmp_path / "store"), metrics=DENSITY)

    done = run("demo", "--no-serve", "--store", "store")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "held-out ELBO -3.25 ± 0.50 nats"


@pytest.mark.parametrize("flags", [[], ["--host", "0.0.0.0", "--insecure"]])
def test_a_model_without_metrics_and_reference_rows_is_served(tmp_path, flags):
    store = ModelStore.open(tmp_path / "store")
    manifest = publish(store, "digits", LEVELS)
    store.promote("digits", "production", manifest.version, who="test", why="demo")
    command = [ELBOD, "demo", "--store", "store", "--port", "0", *flags]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=dict(os.environ)) as process:
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
            assert not re.search("/encode|/elbo", line)
        process.send_signal(signal.SIGINT)

    assert process.returncode == 130
