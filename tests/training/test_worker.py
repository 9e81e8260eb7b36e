import io
import json
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load as load_safetensors

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint
from elbod.training import datasets, recipes
from elbod.training.errors import InvalidDataset, InvalidRecipe, RefusedModel
from elbod.training.progress import Bar, Lines
from elbod.training.scoring import score
from elbod.training.splits import split
from elbod.training.worker import run_training
from elbod_store import InvalidName, UnknownModel
from tests.support import install_family


def generator_of(store, manifest):
    names = ("family", "spec", "likelihood", "event_shape", "levels", "binarization", "labels")
    blueprint = Blueprint(**{name: getattr(manifest, name) for name in names})
    return checkpoint.load(blueprint, store.read(manifest.weights))


def test_a_published_version_scores_its_test_rows_as_its_metrics_say(store, small):
    manifest = run_training(small, store, seed=3)

    test = torch.from_numpy(split(datasets.load_digits()).test)
    scores = score(generator_of(store, manifest), test, manifest.metrics["seed"], 4, 8)

    assert manifest.metrics["n"] == len(test)
    assert manifest.metrics["elbo"] == pytest.approx(scores.elbo.elbo.mean())
    assert manifest.metrics["iwae"] == pytest.approx(scores.importance.iwae.mean())
    assert manifest.metrics["iwae"] > manifest.metrics["elbo"]
    assert manifest.metrics["bits_per_dim"] == pytest.approx(-scores.elbo.elbo.mean() / 64 / np.log(2))
    assert sum(manifest.metrics["kl_per_dimension"]) == pytest.approx(manifest.metrics["kl"])


def test_the_training_record_says_how_to_do_it_again(store, small):
    training = run_training(small, store, seed=3).training

    assert training["seed"] == 3
    assert training["recipe"]["epochs"] == 4
    assert training["data"]["digest"] == datasets.load_digits().digest
    assert training["split"]["train"] == 1185
    assert (training["steps"], training["skipped_steps"], len(training["curve"])) == (72, 0, 4)
    assert training["point"] in training["curve"]
    assert set(training["code"]) == {"elbod", "torch", "numpy", "python"}
    assert training["command"].startswith("elbod train --recipe digits --seed 3")


def test_the_same_seed_publishes_the_same_model(store, small):
    first, second = (run_training(recipes.override(small, ["epochs=1"]), store) for _ in range(2))

    assert (first.version, second.version) == (1, 2)
    assert first.digest == second.digest
    assert {**first.metrics} == {**second.metrics}


def test_reference_rows_carry_the_request_that_gives_their_scores(store, small):
    manifest = run_training(small, store)
    raw = store.read(manifest.reference)
    tensors = load_safetensors(raw)
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    request = json.loads(header["__metadata__"]["request"])

    generator = generator_of(store, manifest)
    scores = score(generator, torch.from_numpy(tensors["x"]), **request)

    assert len(tensors["x"]) == 16
    assert tensors["elbo"] == pytest.approx(scores.elbo.elbo, rel=1e-6)
    assert tensors["iwae"] == pytest.approx(scores.importance.iwae, rel=1e-6)
    assert np.isfinite(tensors["reconstruction_at_mode"]).all()


def test_the_card_says_what_the_numbers_are_and_are_not(store, small):
    card = run_training(small, store).card

    assert "integers 0 ... 16" in card
    assert "| ELBO |" in card
    assert "not a probability of anomaly" in card
    assert "elbod train --recipe digits" in card


def test_the_card_of_a_chain_says_where_its_kl_is_and_whose_bound_it_has(store):
    spec = {"num_levels": 12, "width": 16, "blocks": 1}
    recipe = replace(recipes.recipe("digits-diffusion"), spec=spec, epochs=1, num_importance_samples=2)
    manifest = run_training(recipe, store)

    assert "1 path a row" in manifest.card
    assert (
        "The bounds are of this model of 12 steps: in another `num_steps` the same weights are another" in manifest.card
    )
    assert "not the length of a compact code" in manifest.card
    rows = re.findall(r"^\| (\S+) \.\.\. (\S+) \| (\d+) \| (\S+) \|$", manifest.card, re.MULTILINE)
    assert (rows[0][0], rows[-1][1], sum(int(row[2]) for row in rows)) == ("-5.0", "5.0", 12)
    *steps, first = manifest.metrics["kl_per_level"]
    assert sum(float(row[3]) for row in rows) == pytest.approx(sum(steps), abs=0.05)
    assert f"The noisiest latent still has {first:.2g} nats" in manifest.card


def test_versions_are_published_on_the_way_and_old_ones_retired(store, small):
    manifest = run_training(small, store, publish_every=1, keep=2, alias="production")

    assert manifest.version == 4
    assert store.versions("digits") == [3, 4]
    assert store.resolve("digits@production").version == 4


def test_every_so_many_epochs_become_a_version_whatever_the_recipe_evaluates(store, small):
    recipe = recipes.override(small, ["epochs=7", "evaluate_every=5"])
    manifest = run_training(recipe, store, publish_every=3)

    curve = [point["epoch"] for point in manifest.training["curve"]]
    assert curve == [3, 5, 6, 7]
    epochs = [store.manifest("digits", version).training["point"]["epoch"] for version in store.versions("digits")]
    assert epochs[:2] == [3, 6]
    best = max(manifest.training["curve"], key=lambda point: point["elbo"])
    assert manifest.training["point"] == best


def test_a_version_that_an_alias_names_is_never_retired(store, small):
    quick = recipes.override(small, ["epochs=1"])
    run_training(quick, store, alias="stable")
    for _ in range(3):
        run_training(quick, store, keep=1)

    assert store.versions("digits") == [1, 4]


def test_the_final_version_has_the_best_weights_and_repeats_none(store, small):
    # The learning rate is nothing, so all evaluations are equal and the first one stays the best.
    still = recipes.override(small, ["learning_rate=1e-30"])
    manifest = run_training(still, store, publish_every=1)

    assert manifest.training["point"]["epoch"] == 1
    epochs = [store.manifest("digits", version).training["point"]["epoch"] for version in store.versions("digits")]
    assert epochs == [*range(1, still.epochs + 1), 1]


def test_a_model_whose_bound_is_not_finite_is_refused_and_nothing_is_published(store, small):
    # The first step ruins the weights, all others are skipped.
    ruinous = recipes.override(small, ["learning_rate=1e30", "max_skipped_in_a_row=1000"])

    with pytest.raises(RefusedModel, match="held-out ELBO of test row 0 is nan"):
        run_training(ruinous, store)

    with pytest.raises(UnknownModel):
        store.versions("digits")


UNLUCKY = """
from elbod.generators.vae import VAE

class Unlucky(VAE):
    family = "unlucky"

    def begin(self, q, noise, temperature=1.0):
        raise RuntimeError("out of luck")
"""


def test_a_family_that_breaks_a_promise_is_refused_before_it_is_trained(store, table, tmp_path, monkeypatch):
    install_family(tmp_path / "packages", "unlucky", UNLUCKY)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    recipe = recipes.override(recipes.custom("unlucky", "gaussian", table), ["latent_dim=1"])

    with pytest.raises(RefusedModel, match="not published: begin raises RuntimeError: out of luck"):
        run_training(recipe, store)

    assert store.runs() == []


def test_closed_form_families_publish_their_exact_evidence(store, table):
    recipe = recipes.override(recipes.custom("ppca", "gaussian", table), ["latent_dim=1"])

    metrics = run_training(recipe, store).metrics

    assert metrics["bits_per_dim"] is None
    assert metrics["log_evidence"] == pytest.approx(metrics["iwae"], abs=1e-9)
    assert metrics["elbo"] > metrics["baseline"]["log_prob"] + 1


def test_own_grey_data_are_binarised_anew_at_every_visit(store, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (300, 3, 3)).astype(np.uint8)
    np.save(tmp_path / "grey.npy", x)
    recipe = recipes.custom("vae", "bernoulli", str(tmp_path / "grey.npy"))
    settings = ["binarization=stochastic", "epochs=1", "latent_dim=2", "hidden=8"]

    manifest = run_training(recipes.override(recipe, settings), store)

    assert (manifest.binarization, manifest.levels) == ("stochastic", 2)
    assert manifest.metrics["measure"] == "pmf"


def test_levels_of_own_data_are_their_maximum_plus_one(store, tmp_path):
    x = np.random.default_rng(0).integers(0, 6, (300, 4))
    x[0, 0] = 5
    np.save(tmp_path / "counts.npy", x)
    recipe = recipes.custom("vae", "discretized_logistic", str(tmp_path / "counts.npy"))

    assert run_training(recipes.override(recipe, ["epochs=1", "hidden=8"]), store).levels == 6
    with pytest.raises(InvalidDataset, match=r"x\[0\] has value 5 at \(0\)"):
        run_training(recipes.override(recipe, ["levels=5"]), store)


@pytest.mark.parametrize(
    ("settings", "arguments", "error", "message"),
    [
        (["latent_dim=0"], {}, InvalidRecipe, "sizes must be positive"),
        ([], {"name": "No Name"}, InvalidName, "no model name"),
        ([], {"alias": "latest"}, InvalidName, "reserved"),
        ([], {"device": "abacus"}, InvalidRecipe, "unknown device 'abacus'"),
    ],
)
def test_mistakes_are_named_before_training_starts(store, small, settings, arguments, error, message):
    with pytest.raises(error, match=message):
        run_training(recipes.override(small, settings), store, **arguments)


def test_constant_data_cannot_be_fitted_in_closed_form(store, tmp_path):
    x = np.repeat(np.arange(300.0)[:, None] * 0 + 1, 3, axis=1)
    np.save(tmp_path / "flat.npy", x)

    with pytest.raises(InvalidDataset):
        run_training(recipes.custom("ppca", "gaussian", str(tmp_path / "flat.npy")), store)


@pytest.mark.parametrize("kind", [Lines, Bar])
def test_progress_ends_with_the_numbers_and_the_reference(store, small, kind):
    out = io.StringIO()

    run_training(small, store, progress=kind(Console(file=out, force_terminal=kind is Bar, width=200)))

    text = out.getvalue()
    assert "steps/s" in text
    assert "bits/dim" in text
    assert "baseline" in text
    assert "published digits@1" in text


def test_columns_far_from_zero_keep_their_digits(store, tmp_path):
    """A time stamp with a spread of seconds is nothing but noise in float32."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(600, 1))
    x = np.concatenate([1.7e9 + 10 * base, 1e-6 * base, base + 0.3 * rng.normal(size=(600, 1))], axis=1)
    scores = {}
    for name, table in (("far", x), ("near", (x - x.mean(0)) / x.std(0))):
        np.savez(tmp_path / f"{name}.npz", x=table)
        recipe = recipes.override(
            recipes.custom("vae", "gaussian", str(tmp_path / f"{name}.npz")), ["epochs=3", "latent_dim=2"]
        )
        manifest = run_training(recipe, store, name=name)
        # Densities change by the units' volume alone.
        volume = np.log(x.std(0)).sum() if name == "far" else 0.0
        scores[name] = manifest.metrics["elbo"] + volume
    assert scores["far"] == pytest.approx(scores["near"], abs=1.0)
