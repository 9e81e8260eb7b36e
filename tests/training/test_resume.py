"""A run that is killed goes on to the weights that it would have had, and publishes nothing twice."""

import multiprocessing
import random
import threading
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

from elbod.training import recipes
from elbod.training.errors import CannotResume, Diverged
from elbod.training.progress import Listener
from elbod.training.recipes import Recipe
from elbod.training.state import State
from elbod.training.worker import run_training
from elbod_store import ModelStore, RunDraft, Unavailable, UnknownRun
from tests.support import HANG, wait_for
from tests.training import trainer


class Notes(Listener):
    """Keeps the lines that a run says."""

    def __init__(self, lines: list[str]) -> None:
        self.note = lines.append


SIGKILL = -9
EVERY_EPOCH, OFTEN = "0", "0.01"  # seconds between states


# Trainers are forked from a process with these loaded, which takes five times as long as what they train.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([trainer.__name__, "torch._dynamo"])


def start(store: ModelStore, output: Path, *arguments: str) -> ForkServerProcess:
    process = FORKS.Process(target=trainer.run, args=(str(output), "digits", store.objects.url, *arguments))
    process.start()
    return process


def finish(store: ModelStore, output: Path, *arguments: str, code: int = 0) -> str:
    """What a trainer prints that ends with this code."""
    process = start(store, output, *arguments)
    process.join(HANG)
    assert process.exitcode == code, output.read_text()
    return output.read_text()


def contents(store: ModelStore) -> list[tuple[object, ...]]:
    """What every version has that an interruption must not change."""
    return [
        (m.version, m.digest, m.metrics, *(m.training[key] for key in ("point", "curve", "steps", "skipped_steps")))
        for m in map(store.manifest, ["digits"] * 10, store.versions("digits"))
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    store = ModelStore.open(folder / "store")
    finish(store, folder / "output", "600")
    return contents(store)


@pytest.mark.slow
def test_a_run_killed_at_every_kind_of_step_ends_with_the_same_versions_each_once(store, tmp_path, uninterrupted):
    kills = [
        ("save:blobs", 1),  # the state is written, nobody names it
        ("save:entry", 2),
        ("publish:weights", 1),
        ("publish:manifest", 1),  # the version is visible, the run's log does not know it
        ("published:start", 2),
        ("published:entry", 1),
        ("save:start", 1),
        ("finish:start", 1),  # everything is done but the last entry
    ]
    for step, nth in kills:
        known = store.runs()
        run = known[0] if known else "new"
        finish(store, tmp_path / "output", EVERY_EPOCH, run, step, str(nth), code=SIGKILL)
    (run,) = store.runs()
    output = finish(store, tmp_path / "output", EVERY_EPOCH, run)

    assert contents(store) == uninterrupted
    assert "was published before the run was interrupted" in output
    assert [entry.version for entry in store.history("digits", "production")] == [len(uninterrupted)]
    entry = store.run(run)
    assert (entry.finished, entry.blobs) == (True, ())
    assert entry.published == tuple(store.versions("digits"))


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_in_the_middle_of_an_epoch(store, tmp_path, uninterrupted):
    chance, places = random.Random(0), []
    finish(store, tmp_path / "output", OFTEN, "new", "save:entry", "2", code=SIGKILL)
    (run,) = store.runs()
    for _ in range(5):
        before = store.run(run)
        process = start(store, tmp_path / "output", OFTEN, "newest")
        wait_for(lambda before=before: (now := store.run(run)).number > before.number + 2 or now.finished)
        threading.Event().wait(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        places.append(store.run(run).step)
        if store.run(run).finished:
            break
    if not store.run(run).finished:
        finish(store, tmp_path / "output", OFTEN, run)

    assert contents(store) == uninterrupted
    assert any(step % 18 for step in places), places
    assert store.run(run).finished


def test_a_state_that_is_saved_leaves_the_one_before_to_be_collected(store, tmp_path):
    finish(store, tmp_path / "output", EVERY_EPOCH, "new", "save:confirm", "3", code=SIGKILL)
    (run,) = store.runs()

    entry = store.run(run)
    assert (entry.epoch, entry.step, len(entry.blobs)) == (3, 54, 1)
    assert b"random/permutation" in store.read(entry.blobs[0])
    assert entry.training["command"].startswith("elbod train --recipe digits")


class PowerCut(Exception):
    pass


@pytest.fixture
def interrupted(store: ModelStore, table: str) -> tuple[str, Recipe]:
    """The id and the recipe of a run of the table that ended in the middle."""
    recipe = recipes.override(recipes.custom("vae", "gaussian", table), ["hidden=8", "latent_dim=2", "epochs=3"])

    def cut(step: str) -> None:
        if step == "save:entry":
            raise PowerCut

    with pytest.raises(PowerCut):
        run_training(recipe, store, save_every=0, on_step=cut)
    (run,) = store.runs()
    return run, recipe


def test_a_run_goes_on_with_its_own_training_only(store, interrupted):
    run, recipe = interrupted

    for changed, options, message in (
        (recipe, {"resume": "table-0"}, "there is no run 'table-0'"),
        (recipes.override(recipe, ["batch_size=32"]), {}, "has another recipe: its batch_size is 128, this one's 32"),
        (recipe, {"seed": 5}, "has seed 0, this is 5: give --seed"),
        (recipe, {"name": "other"}, "has name table, this is other: give --name"),
        (recipe, {"publish_every": 2}, "has publish every None, this is 2: give --publish-every"),
    ):
        with pytest.raises((CannotResume, UnknownRun), match=message):
            run_training(changed, store, **({"resume": run} | options))


def test_a_run_does_not_go_on_with_other_data(store, interrupted, table):
    run, recipe = interrupted
    np.savez(table, x=np.load(table)["x"] + 1)

    with pytest.raises(CannotResume, match=r"trains on data of digest [0-9a-f]{12}, these have [0-9a-f]{12}"):
        run_training(recipe, store, resume=run)


def test_a_run_that_has_ended_is_not_resumed(store, interrupted):
    run, recipe = interrupted
    run_training(recipe, store, resume=run)

    with pytest.raises(CannotResume, match=r"has ended: its versions are \[1\]; train anew"):
        run_training(recipe, store, resume=run)


def test_the_newest_unfinished_run_is_that_of_the_same_training_or_a_new_one_begins(store, interrupted):
    run, recipe = interrupted
    lines = []

    run_training(recipe, store, seed=1, resume=True, progress=Notes(lines))
    run_training(recipe, store, resume=True, progress=Notes(lines))

    assert "no unfinished run of table by this recipe on these data: a new one begins" in lines
    assert any(line.startswith(f"run {run}: resumed from step 1 in epoch 1, saved 20") for line in lines), lines
    assert len(store.runs()) == 2
    assert all(store.run(each).finished for each in store.runs())


def test_another_machine_is_said_and_does_not_stop_a_run(store, interrupted):
    run, recipe = interrupted
    entry = store.run(run)
    training = {**entry.training, "machine": {"torch": "1.0", "capability": "ABACUS"}}
    moved = RunDraft(run=run, worker="b", who="", data=entry.data, training=training, blobs=entry.blobs)
    store.append_run(moved, expected=entry.number)
    lines = []

    run_training(recipe, store, resume=run, progress=Notes(lines))

    assert any(f"the run {run} began with torch 1.0, here it is" in line for line in lines)


def test_a_run_that_diverges_has_ended(store, interrupted):
    _, recipe = interrupted
    ruinous = recipes.override(recipe, ["learning_rate=1e30", "max_skipped_in_a_row=2", "warmup_epochs=0"])

    with pytest.raises(Diverged):
        run_training(ruinous, store)

    assert sum(store.run(run).finished for run in store.runs()) == 1


def test_a_closed_form_family_has_a_run_too(store, table):
    recipe = recipes.override(recipes.custom("ppca", "gaussian", table), ["latent_dim=1"])

    manifest = run_training(recipe, store, save_every=0)

    (run,) = store.runs()
    assert store.run(run).finished
    assert manifest.training["run"] == {"id": run, "publication": 1}


def test_a_store_that_is_away_while_a_state_is_saved_costs_that_state_only(store, table):
    recipe = recipes.override(recipes.custom("vae", "gaussian", table), ["hidden=8", "latent_dim=2", "epochs=3"])
    lines, times = [], []

    def away(step: str) -> None:
        times.append(step)
        if times.count("save:blobs") == 1 and step == "save:blobs":
            raise Unavailable("away")

    run_training(recipe, store, save_every=0, on_step=away, progress=Notes(lines))

    assert sum(line.endswith("was not saved: away; training goes on") for line in lines) == 1
    assert times.count("save:entry") == 2
    (run,) = store.runs()
    assert store.run(run).finished


def test_a_state_of_another_schema_or_of_no_kind_is_refused():
    state = State({"a": torch.zeros(2)}, {"epoch": 1, "loss": float("nan")})

    again = State.unpack(state.pack())
    assert torch.equal(again.tensors["a"], state.tensors["a"])
    assert again.plain["epoch"] == 1
    with pytest.raises(CannotResume, match="schema 2, this elbod goes on from 1"):
        State.unpack(state.pack().replace(b'\\"schema\\": 1', b'\\"schema\\": 2'))
    for wrong in (b"", b"\x80\x04K\x01.", state.pack()[:-1], save_safetensors({"a": torch.zeros(2)})):
        with pytest.raises(CannotResume, match="malformed"):
            State.unpack(wrong)
