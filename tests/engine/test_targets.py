"""Each row gets the draws that its target error asks for, and is ranked among the model's calibration rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from elbod.engine.backends.eager import EagerBackend
from elbod.engine.compute import Compute
from elbod.engine.jobs import Job, Scores, Verb
from elbod.engine.loading import Resident, load
from elbod.errors import ModelFailure
from elbod_store import ModelStore
from tests.support import BITS, LEVELS, draft


def scores(engine: Compute, job: Job, resident: Resident) -> dict[str, Any]:
    value = engine.submit(job, resident).result(60).value
    assert isinstance(value, Scores)
    return dict(value.columns)


def a_sixteenth_of_the_spread(engine: Compute, job: Job, resident: Resident) -> float:
    """A target that a typical row meets with some 1.3 x 256 draws."""
    return float(np.median(scores(engine, replace(job, num_samples=64), resident)["standard_error"] * 8)) / 16


@pytest.mark.parametrize("name", ["levels", "vamp"])
def test_a_row_with_a_target_equals_a_plain_request_with_the_draws_that_it_got(
    engine: Compute, residents: dict[str, Resident], levels_rows: Any, name: str
) -> None:
    """The pilot decides how many draws are averaged and contributes none of them."""
    plain = Job(verb=Verb.ELBO, rows=40, seed=3, first_index=7, x=levels_rows, num_importance_samples=90)
    target = a_sixteenth_of_the_spread(engine, plain, residents[name])
    job = replace(plain, num_samples=1024, target_standard_error=target)
    columns = scores(engine, job, residents[name])
    counts = columns["num_samples"]
    assert counts.min() >= 64
    assert counts.max() <= 1024
    assert len(set(counts)) > 5
    for row in range(40):
        one = replace(plain, rows=1, first_index=7 + row, x=levels_rows[row : row + 1], num_samples=int(counts[row]))
        alone = scores(engine, one, residents[name])
        for column in ("elbo", "standard_error", "iwae", "kl", "log_joint"):
            assert columns[column][row].tobytes() == alone[column][0].tobytes()
    np.testing.assert_array_equal(columns["target_met"], columns["standard_error"] <= target)
    # The draws are skewed, so a pilot of 64 often underrates their spread: the margin keeps most rows within.
    assert columns["target_met"].mean() > 0.5


def test_the_draws_of_a_row_follow_its_own_variance(
    engine: Compute, residents: dict[str, Resident], levels_rows: Any
) -> None:
    """S is about 1.3 s^2/target^2: halving the target takes four times the draws."""
    job = Job(verb=Verb.ELBO, rows=40, seed=3, x=levels_rows, num_samples=20_000)
    target = a_sixteenth_of_the_spread(engine, job, residents["levels"])
    wide = scores(engine, replace(job, target_standard_error=target), residents["levels"])
    narrow = scores(engine, replace(job, target_standard_error=target / 2), residents["levels"])
    free = wide["num_samples"] > 64
    assert free.any()
    np.testing.assert_allclose(narrow["num_samples"][free], 4 * wide["num_samples"][free], atol=4)
    assert narrow["target_met"].mean() > 0.5


def test_stopping_by_a_pilot_does_not_bias_the_bound(engine: Compute, residents: dict[str, Resident]) -> None:
    """Over many seeds the mean of targeted bounds agrees with a bound of very many draws, within four errors."""
    x = np.random.default_rng(8).integers(0, 17, (1, 8, 8), dtype=np.uint8)
    truth = scores(engine, Job(verb=Verb.ELBO, rows=1, seed=0, x=x, num_samples=20_000), residents["levels"])
    rows = np.repeat(x, 200, axis=0)
    job = Job(verb=Verb.ELBO, rows=200, seed=1, x=rows, num_samples=1024, target_standard_error=1.0)
    targeted = scores(engine, job, residents["levels"])["elbo"]
    error = np.hypot(targeted.std(ddof=1) / np.sqrt(200), truth["standard_error"][0])
    assert abs(targeted.mean() - truth["elbo"][0]) < 4 * error


@pytest.fixture
def calibrated(tmp_path: Path, backend: EagerBackend) -> Resident:
    store = ModelStore.open(tmp_path / "store")
    blob = save_safetensors({"elbo_1": np.arange(-200.0, -150.0), "elbo_16": np.arange(-190.0, -140.0)})
    return load(store, store.publish(replace(draft("levels", LEVELS), calibration=blob)), backend)


def test_scores_are_ranked_with_the_largest_calibrated_number_of_draws_that_they_have(
    engine: Compute, calibrated: Resident, levels_rows: Any
) -> None:
    job = Job(verb=Verb.ELBO, rows=40, seed=3, x=levels_rows, num_samples=20)
    full = scores(engine, job, calibrated)
    first = scores(engine, replace(job, num_samples=16), calibrated)
    assert full["quantile"].tobytes() == first["quantile"].tobytes()
    reference = calibrated.description.calibration[16].scores
    expected = (1 + (reference[None] <= first["elbo"][:, None]).sum(1)) / 51
    np.testing.assert_allclose(full["quantile"], expected)
    single = scores(engine, replace(job, num_samples=15), calibrated)
    one = scores(engine, replace(job, num_samples=1), calibrated)
    assert single["typicality"].tobytes() == one["typicality"].tobytes()


def test_another_binarization_is_not_ranked(engine: Compute, tmp_path: Path, backend: EagerBackend) -> None:
    store = ModelStore.open(tmp_path / "store")
    blob = save_safetensors({"elbo_1": np.arange(-20.0, -5.0)})
    resident = load(store, store.publish(replace(draft("bits", BITS), calibration=blob)), backend)
    x = np.random.default_rng(3).random((6, 3, 4))
    job = Job(verb=Verb.ELBO, rows=6, seed=4, x=x, binarize="stochastic")
    assert "quantile" in scores(engine, job, resident)
    assert "quantile" not in scores(engine, replace(job, binarize="threshold"), resident)
    bits = replace(job, binarize=None, x=np.ones((6, 3, 4), np.uint8))
    assert "quantile" in scores(engine, bits, resident)


@pytest.mark.parametrize(
    "tensors",
    [
        {"elbo_1": np.array([2.0, 1.0])},
        {"elbo_1": np.array([1.0, np.nan])},
        {"elbo_1": np.array([1.0], np.float32)},
        {"elbo_x": np.array([1.0])},
    ],
)
def test_calibration_scores_that_are_none_are_refused_at_load(
    tmp_path: Path, backend: EagerBackend, tensors: dict[str, Any]
) -> None:
    store = ModelStore.open(tmp_path / "store")
    manifest = store.publish(replace(draft("levels", LEVELS), calibration=save_safetensors(tensors)))
    with pytest.raises(ModelFailure, match="calibration scores of levels@1"):
        load(store, manifest, backend)
