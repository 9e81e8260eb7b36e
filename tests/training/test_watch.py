"""`elbod train --watch` as a process of its own."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from elbod.training.watch import signature
from elbod_store import ModelStore
from tests.support import ELBOD, wait_for

FLAGS = ["--likelihood", "gaussian", "--name", "mine", "--alias", "live", "--interval", "0.1"]


class Watcher:
    """A worker that watches a file."""

    def __init__(self, folder: Path, *flags: str, family: str = "ppca") -> None:
        self.data, self.log = folder / "rows.npy", folder / "log"
        command = [
            ELBOD,
            "train",
            "--watch",
            "--data",
            self.data,
            "--store",
            folder / "store",
            *FLAGS,
            *flags,
            "--family",
            family,
        ]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"COLUMNS": "200"})

    def says(self, text: str, times: int = 1) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.log.read_text().count(text) >= times

        wait_for(said)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        with self.process:
            return self.process.wait(30)


def rows(seed: int, spread: float = 0.1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((400, 1)) * [1.0, -2.0, 0.5] + spread * generator.standard_normal((400, 3))


def test_a_change_of_the_data_is_trained_on_and_the_same_data_are_not_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows(0))
    store = ModelStore.open(tmp_path / "store")
    watcher = Watcher(tmp_path, "--set", "latent_dim=1")
    watcher.says("mine@1 is now mine@live")
    np.save(watcher.data, rows(1))
    watcher.says("mine@2 is now mine@live")
    watcher.data.write_bytes(watcher.data.read_bytes()[:-100])
    watcher.says("waiting for a change of")
    # Touched, and with the rows that were trained on.
    np.save(watcher.data, rows(1))
    watcher.says("mine@2 was trained on these data")
    assert watcher.stop() == 130
    again = Watcher(tmp_path, "--set", "latent_dim=1")
    again.says("mine@2 was trained on these data", times=2)
    assert again.stop() == 130
    assert store.versions("mine") == [1, 2]
    assert store.manifest("mine", 1).training["data"] != store.manifest("mine", 2).training["data"]


def test_what_does_not_pass_the_gate_is_published_and_not_promoted(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows(0))
    store = ModelStore.open(tmp_path / "store")
    watcher = Watcher(tmp_path, "--gate", "--set", "latent_dim=1")
    watcher.says("mine@1 is now mine@live (nothing to compare it with)")
    np.save(watcher.data, rows(1))
    watcher.says("mine@2 is now mine@live (")
    assert watcher.stop() == 130
    # The same data for a model that has hardly been trained.
    worse = Watcher(tmp_path, "--gate", "--set", "epochs=1", "--set", "learning_rate=1e-9", family="vae")
    worse.says("mine@3 is published, but not live: its held-out ELBO is worse")
    assert worse.stop() == 130
    assert store.versions("mine") == [1, 2, 3]
    assert store.aliases("mine")["live"] == 2


def test_a_store_that_is_away_is_tried_again(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows(0))
    store = tmp_path / "store"
    ModelStore.open(store).probe()
    watcher = Watcher(tmp_path, "--set", "latent_dim=1")
    watcher.says("mine@1 is now mine@live")
    store.rename(tmp_path / "away")
    store.write_text("no folder")
    np.save(watcher.data, rows(1))
    watcher.says("trying again in 0.1 s", times=2)
    store.unlink()
    (tmp_path / "away").rename(store)
    watcher.says("mine@2 is now mine@live")
    assert watcher.stop() == 130


def test_a_watcher_that_was_killed_goes_on_with_its_run(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows(0))
    store = ModelStore.open(tmp_path / "store")
    slow = ["--publish-every", "2", "--save-every", "0", "--set", "epochs=40", "--set", "latent_dim=1"]
    watcher = Watcher(tmp_path, *slow, family="vae")
    watcher.says("published mine@2:")
    watcher.process.kill()
    with watcher.process:
        watcher.process.wait(30)
    published = len(store.versions("mine"))
    again = Watcher(tmp_path, *slow, family="vae")
    again.says(": resumed from step")
    again.says("is now mine@live")
    assert again.stop() == 130
    # Every second epoch and perhaps the best: none of them twice.
    assert published < len(store.versions("mine")) <= 21
    assert len(store.runs()) == 1


def test_a_signature_sees_files_that_change_come_and_go(tmp_path: Path) -> None:
    seen = {signature(str(tmp_path))}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"1")
    seen.add(signature(str(tmp_path)))
    (tmp_path / "sub" / "a.png").write_bytes(b"12")
    seen.add(signature(str(tmp_path)))
    (tmp_path / "b.png").write_bytes(b"1")
    seen.add(signature(str(tmp_path)))
    assert len(seen) == 4
    assert signature("digits") == ()


@pytest.mark.parametrize("flags", [["--gate"], ["--watch", "--interval", "0"]])
def test_a_command_that_cannot_be_meant_is_a_usage_error(tmp_path: Path, flags: list[str]) -> None:
    done = subprocess.run(
        [ELBOD, "train", "--recipe", "digits", "--store", tmp_path / "store", *flags],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
