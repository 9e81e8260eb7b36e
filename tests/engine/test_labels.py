"""Conditional models in the engine: given labels, and the marginal over all of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from elbod.engine.compute import Compute
from elbod.engine.jobs import Encodings, Job, Samples, Scores, Verb
from elbod.engine.loading import Resident
from elbod.training.scoring import score

SETTINGS: dict[str, Any] = {"verb": Verb.ELBO, "rows": 7, "seed": 11, "first_index": 20}


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 17, (7, 8, 8), dtype=np.uint8)


def columns(engine: Compute, job: Job, resident: Resident) -> dict[str, np.ndarray]:
    value = engine.submit(job, resident).result(60).value
    assert isinstance(value, Scores)
    return {**value.columns, **value.maps}


def test_the_marginal_is_that_of_the_generator_computed_row_by_row(
    engine: Compute, residents: dict[str, Resident], x: np.ndarray
) -> None:
    labels = residents["labels"]
    job = Job(**SETTINGS, x=x, marginal_labels=3, num_samples=9, num_importance_samples=30)
    found = columns(engine, job, labels)
    expected = score(labels.generator, torch.from_numpy(x), 11, 9, 30, first_index=20)
    assert expected.importance is not None
    for name in ("elbo", "standard_error", "reconstruction", "kl", "log_joint", "entropy"):
        np.testing.assert_allclose(found[name], getattr(expected.elbo, name), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["iwae"], expected.importance.iwae, rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], found["reconstruction"] - found["kl"], rtol=1e-9)
    np.testing.assert_allclose(found["elbo"], found["log_joint"] + found["entropy"], rtol=1e-9)


def test_a_score_given_labels_is_that_of_each_label_alone(
    engine: Compute, residents: dict[str, Resident], x: np.ndarray
) -> None:
    label = np.arange(7) % 3
    mixed = columns(engine, Job(**SETTINGS, x=x, label=label, num_samples=4), residents["labels"])
    for number in range(3):
        alone = columns(engine, Job(**SETTINGS, x=x, label=np.full(7, number), num_samples=4), residents["labels"])
        rows = label == number
        assert alone["elbo"][rows].tobytes() == mixed["elbo"][rows].tobytes()
    assert len(set(mixed["elbo"])) == 7


def test_labels_reach_samples_and_encodings(engine: Compute, residents: dict[str, Resident], x: np.ndarray) -> None:
    labels = residents["labels"]
    answers: list[tuple[Any, Any]] = []
    for number in (0, 1):
        job = Job(**SETTINGS | {"verb": Verb.SAMPLE}, label=np.full(7, number), output="mean")
        sampled = engine.submit(job, labels).result(60).value
        encoded = engine.submit(replace(job, verb=Verb.ENCODE, x=x), labels).result(60).value
        assert isinstance(sampled, Samples)
        assert isinstance(encoded, Encodings)
        answers.append((sampled, encoded))
    (sampled, encoded), (other_sampled, other_encoded) = answers
    assert sampled.z.tobytes() == other_sampled.z.tobytes()  # the prior knows no label
    assert sampled.x.tobytes() != other_sampled.x.tobytes()
    assert encoded.parameters["mean"].tobytes() != other_encoded.parameters["mean"].tobytes()


def test_a_target_error_of_the_marginal_equals_the_plain_request_with_that_many_draws(
    engine: Compute, residents: dict[str, Resident], x: np.ndarray
) -> None:
    job = Job(**SETTINGS, x=x, marginal_labels=3, num_samples=300, num_importance_samples=5)
    found = columns(engine, replace(job, target_standard_error=0.1), residents["labels"])
    assert len(set(found["num_samples"])) > 1
    for row, samples in enumerate(found["num_samples"]):
        alone = replace(job, rows=1, first_index=20 + row, x=x[row : row + 1], num_samples=int(samples))
        plain = columns(engine, alone, residents["labels"])
        assert plain["elbo"].tobytes() == found["elbo"][row : row + 1].tobytes()
        assert plain["standard_error"].tobytes() == found["standard_error"][row : row + 1].tobytes()


def test_the_reconstruction_map_of_the_marginal_sums_to_its_reconstruction(
    engine: Compute, residents: dict[str, Resident], x: np.ndarray
) -> None:
    job = Job(**SETTINGS, x=x, marginal_labels=3, num_samples=5, num_importance_samples=12, reconstruction_map=True)
    found = columns(engine, job, residents["labels"])
    np.testing.assert_allclose(found["reconstruction_map"].sum((1, 2)), found["reconstruction"], rtol=1e-9)


def test_one_draw_of_the_marginal_is_the_sum_of_the_weights_of_its_labels(
    engine: Compute, residents: dict[str, Resident], x: np.ndarray
) -> None:
    """logsumexp of log p(y) + L_y with sampled terms: at S = 1 L_y is the importance weight of the first draw."""
    labels = residents["labels"]
    job = Job(**SETTINGS, x=x, num_samples=1, num_importance_samples=1)
    given = [columns(engine, replace(job, label=np.full(7, y)), labels)["iwae"] for y in range(3)]
    log_prob = labels.generator.label_log_prob()
    assert log_prob is not None
    expected = np.logaddexp.reduce(log_prob.numpy()[:, None] + np.stack(given), axis=0)
    found = columns(engine, replace(job, marginal_labels=3), labels)
    np.testing.assert_allclose(found["elbo"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["iwae"], expected, rtol=1e-12)
    assert np.isnan(found["standard_error"]).all()
