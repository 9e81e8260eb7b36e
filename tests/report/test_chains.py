"""The page of a model whose draws take passes: bounded work, its bound by level and steps, and whose bound it is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elbod.cli.scoring import Session
from elbod.engine.jobs import Array, Job
from elbod.report.effort import effort
from elbod.report.findings import Findings, find
from elbod.report.page import page
from elbod.settings import load_settings
from elbod_client import Client
from elbod_store import ModelStore
from tests.report.test_report import checked, report, rows_of
from tests.support import CHAIN_OF_LABELS, DIFFUSION, Server, publish

DEEP = replace(DIFFUSION, spec={**DIFFUSION.spec, "num_levels": 12})
NUMBERS = replace(DIFFUSION, likelihood="gaussian", levels=None, event_shape=(5,))


@pytest.fixture(scope="module")
def deep_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Of chains of 12 levels over images, of 4 over numbers, and of 4 with labels."""
    store = ModelStore.open(tmp_path_factory.mktemp("deep") / "store")
    publish(store, "deep", DEEP)
    publish(store, "numbers", NUMBERS)
    publish(store, "labels", CHAIN_OF_LABELS)
    return store


@pytest.fixture(scope="module")
def session(deep_store: ModelStore) -> Iterator[Session]:
    with Session.open(load_settings(store=deep_store.objects.url, device="cpu"), quiet=True) as opened:
        yield opened


def found(session: Session, name: str, **changes: Any) -> Findings:
    resident = session.load(name)
    blueprint = resident.generator.blueprint
    x = rows_of(blueprint.event_shape, blueprint.levels)

    def run(job: Job, title: str) -> dict[str, Array]:
        return session.run(job, resident, title)

    spent = replace(effort(resident.levels, len(x)), **changes)
    return find(resident, x, None, "rows of a test", run, seed=5, effort=spent)


@pytest.fixture(scope="module")
def deep(session: Session) -> Findings:
    return found(session, "deep")


def test_the_page_shows_the_bound_by_level_and_steps_in_place_of_latent_dimensions(deep: Findings) -> None:
    shown = checked(page(deep))
    assert deep.missing == {}
    for title in ("Reconstructions", "From noise to data", "Bound profile", "Fewer steps", "honest?"):
        assert title in shown.text
    for title in ("Latent traversals", "Information in each latent dimension", "Left out"):
        assert title not in shown.text


def test_rows_without_labels_have_a_page_of_the_null_label(session: Session) -> None:
    labels = found(session, "labels")
    assert labels.missing == {}
    assert labels.sample_labels is not None
    assert set(labels.sample_labels) == {0, 1, 2}
    checked(page(labels))


def test_the_page_says_whose_bound_it_is_and_what_its_kl_is_not(deep: Findings) -> None:
    shown = checked(page(deep)).text
    assert "bound log p(x) of this model of 12 steps" in shown
    assert "In another num_steps the same weights are another model" in shown
    assert "it is not the length of a compact code" in shown


def test_the_page_says_how_many_passes_and_rows_it_took(deep: Findings) -> None:
    # 8 paths of 13 passes and 4 of 9 a row; 20 times 4 paths of each row; 64 samples; 8 samples that show all levels
    # but one; four reconstructions of 12 rows.
    passes = 20 * (8 * 13 + 4 * 9) + 20 * 20 * 4 * 13 + 64 * 13 + 8 * (13 + 12) + 4 * 12
    assert deep.evaluations == passes
    shown = checked(page(deep)).text
    assert "A path takes 13 passes" in shown
    assert "4 a row for the ELBO and 8 for the importance-weighted bound, of 20 of 20 rows" in shown
    assert f"All of the page took {passes:,} passes" in shown


def test_the_profile_is_that_of_the_answers(deep: Findings) -> None:
    assert deep.by_level is not None
    assert deep.by_level.kl.shape == (20, 13)
    steps, first = deep.by_level.kl[:, :-1].sum(axis=1).mean(), deep.by_level.kl[:, -1].mean()
    shown = checked(page(deep)).text
    assert f"The steps add up to {steps:.2f} nats" in shown
    assert f"still has {first:.2g} nats about a row" in shown


def test_bounds_of_fewer_steps_are_of_the_same_rows_and_noise_as_those_of_the_service(
    deep: Findings, deep_store: ModelStore, start_server: Any
) -> None:
    assert deep.by_level is not None
    assert list(deep.by_level.elbo) == [8, 12]
    server: Server = start_server(deep_store.objects.url)
    with Client(server.url, model="deep") as client:
        client.wait_until_ready()
        for steps, elbo in deep.by_level.elbo.items():
            served = client.elbo(deep.x, seed=5, num_samples=4, num_steps=steps).elbo
            assert elbo.tobytes() == served.tobytes()
        drawn = client.sample(8, seed=5, include=["trajectory"], trajectory_steps=12)
    assert deep.by_level.trajectories.tobytes() == drawn.trajectory.tobytes()
    assert list(deep.by_level.shown) == list(drawn.trajectory_levels)


def test_rows_of_numbers_have_a_page_too_and_short_chains_no_curve(session: Session) -> None:
    shown = checked(page(found(session, "numbers"))).text
    assert "sample 8" in shown
    assert "There is no curve: 4 steps are few already." in shown
    assert "bits/dim" not in shown


@pytest.mark.parametrize("levels", [1, 4, 12, 32, 128, 1000, 4096])
def test_the_work_on_a_chain_is_bounded_at_any_number_of_levels(levels: int) -> None:
    spent = effort(levels, 10_000)
    shorter = sum(steps + 1 for steps in spent.shorter)
    scored = spent.rows * (8 * (levels + 1) + 4 * shorter)
    tried = spent.tried_rows * spent.repetitions * spent.tried_samples * (levels + 1)
    assert scored + tried + spent.samples * (levels + 1) <= 250_000
    assert spent.rows >= 2
    assert spent.shorter == tuple(steps for steps in (8, 16, 32) if steps < levels)


def test_given_counts_stay_and_rows_follow_from_them() -> None:
    assert effort(32, 5000, rows=5000, num_samples=64).rows == 5000
    assert effort(32, 5000, num_samples=64).num_samples == 64
    assert effort(32, 5000, num_samples=64).rows < effort(32, 5000).rows < 1000
    assert effort(0, 5000).rows == 1000
    assert effort(0, 5000, rows=30).tried_rows == 30


def test_errors_are_not_tried_where_a_path_takes_too_many_passes(session: Session) -> None:
    assert effort(4096, 100).tried_rows == 0
    shown = checked(page(found(session, "numbers", tried_rows=0))).text
    assert "Left out: a path of this model takes too many passes to repeat it often." in shown


def test_the_command_takes_the_counts_that_it_is_given(deep_store: ModelStore, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows_of((8, 8), 17))
    flags = ["--model", "deep", "--data", "rows.npy", "--store", deep_store.objects.url]
    done = report(tmp_path, *flags, "--rows", "3", "--num-samples", "2", "--importance-samples", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "deep-1.html: deep@1, 3 rows; open it in a browser\n"
    shown = checked((tmp_path / "deep-1.html").read_text()).text
    assert "2 a row for the ELBO and 5 for the importance-weighted bound, of 3 of 20 rows" in shown
