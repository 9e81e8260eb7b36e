"""Training and publishing models that are conditional on labels."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from elbod.engine.backends.eager import EagerBackend
from elbod.engine.loading import load
from elbod.training import datasets, recipes
from elbod.training.datasets import Dataset
from elbod.training.errors import InvalidDataset, InvalidRecipe
from elbod.training.splits import split
from elbod.training.worker import prepare, run_training


@pytest.fixture
def conditional(small):
    return replace(small, name="digits-labels", family="cvae")


def test_a_conditional_model_is_published_with_both_kinds_of_scores_and_serves(store, conditional):
    manifest = run_training(recipes.override(conditional, ["epochs=12", "learning_rate=3e-3"]), store)

    assert manifest.labels == tuple("0123456789")
    assert "It is conditional on a label: 0 is '0'" in manifest.card
    assert manifest.metrics["kl_estimator"] == "monte_carlo"
    # log p(x|y) of the right label is larger than log p(x), by at most log 1/p(y) on average.
    gain = manifest.metrics["given_label"]["elbo"] - manifest.metrics["elbo"]
    assert 0.5 < gain < np.log(10) + 0.5
    scores = load_safetensors(store.read(manifest.calibration))
    assert set(scores) == {f"{kind}_{s}" for kind in ("elbo", "elbo_given_label") for s in (1, 4, 16, 64)}
    resident = load(store, manifest, EagerBackend())
    assert resident.description.reproducible
    assert resident.description.calibration.keys() == resident.description.given_label.keys() == {1, 4, 16, 64}
    assert resident.description.given_label[4].scores.mean() > resident.description.calibration[4].scores.mean()


def test_labels_stay_with_their_rows(conditional):
    digits = datasets.load("digits")
    _, parts = prepare(conditional, digits, seed=0)

    of = {x.tobytes(): y for x, y in zip(digits.x, digits.y, strict=True)}
    for part in ("train", "validation", "calibration", "test"):
        expected = [of[x.tobytes()] for x in getattr(parts, part)]
        assert getattr(parts.labels, part).tolist() == expected


def test_classes_are_the_different_labels_in_ascending_order():
    x = np.random.default_rng(0).integers(0, 9, (400, 3))
    y = np.where(x[:, 0] > 4, 70, -3)
    labels = split(Dataset("mine", x, y, "")).labels

    assert labels.names == ("-3", "70")
    assert set(labels.train.tolist()) == {0, 1}


def test_data_without_labels_cannot_train_a_conditional_model(conditional, tmp_path):
    np.savez(tmp_path / "bare.npz", x=datasets.load("digits").x)

    with pytest.raises(InvalidDataset, match=r"bare has no labels, which family 'cvae' is conditional on: .* array y"):
        prepare(conditional, datasets.load(str(tmp_path / "bare.npz")), seed=0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(1797), "y has dtype float64: labels must be integers"),
        (np.zeros(1796, int), "one label per row of x would be"),
    ],
)
def test_labels_that_are_none_are_refused(y, message):
    with pytest.raises(InvalidDataset, match=message):
        Dataset("mine", datasets.load("digits").x, y, "")


def test_one_class_alone_and_thousands_are_refused(conditional):
    x = datasets.load("digits").x
    with pytest.raises(InvalidRecipe, match="at least two labels"):
        prepare(conditional, Dataset("mine", x, np.zeros(len(x), int), ""), seed=0)
    with pytest.raises(InvalidDataset, match="1,797 different labels, the limit is 1,000"):
        prepare(conditional, Dataset("mine", x, np.arange(len(x)), ""), seed=0)


def test_a_class_that_no_training_row_has_is_refused_by_name(conditional):
    x = datasets.load("digits").x
    y = np.zeros(len(x), int)
    y[np.flatnonzero((x == split(Dataset("mine", x, None, "")).test[0]).all((1, 2)))] = 5

    with pytest.raises(InvalidDataset, match="label '5' has no training row"):
        prepare(conditional, Dataset("mine", x, y, ""), seed=0)
