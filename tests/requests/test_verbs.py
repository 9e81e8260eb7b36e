"""A request becomes a job for a described model, without a server and without its weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from elbod.engine.description import ModelDescription
from elbod.errors import InvalidInput
from elbod.requests.checks import UNLIMITED, RequestLimits
from elbod.requests.verbs import ElboRequest, EncodeRequest, SampleRequest, VerbRequest, validated
from tests.support import LABELS, MIXTURE, build_generator

SMALL = RequestLimits(max_rows=3, max_num_samples=5, max_importance_samples=7)


def described(blueprint: Any) -> ModelDescription:
    generator = build_generator(blueprint)
    return ModelDescription(
        name="model",
        version=1,
        digest="0" * 64,
        family=blueprint.family,
        likelihood=generator.likelihood,
        latent_dim=generator.latent_dim,
        latent_levels=generator.latent_levels,
        labels=blueprint.labels,
        has_null_label=generator.null_label is not None,
        binarization=None,
        kl_estimator=generator.kl_estimator,
        levels=None,
        posterior_family="normal",
        posterior_closed_form=True,
        posterior_shared={},
        calibration={},
        given_label={},
        reproducible=True,
        fingerprint="these tests",
    )


@pytest.fixture(scope="module")
def conditional() -> ModelDescription:
    return described(LABELS)


@pytest.fixture(scope="module")
def discrete() -> ModelDescription:
    return described(MIXTURE)


def test_a_score_without_labels_is_marginal_over_those_of_the_model(
    conditional: ModelDescription, levels_rows: Any
) -> None:
    asked = ElboRequest(seed=3, first_index=5)
    marginal = asked.job({"x": levels_rows}, conditional, UNLIMITED)
    given = asked.job({"x": levels_rows, "label": np.array(2)}, conditional, UNLIMITED)
    assert (marginal.rows, marginal.seed, marginal.first_index, marginal.marginal_labels) == (40, 3, 5, 3)
    assert given.marginal_labels == 0
    assert given.label is not None
    assert given.label.tolist() == [2] * 40


@pytest.mark.parametrize("z", [0.5, -1.0, 6.0, 1e5])
def test_a_discrete_latent_is_one_of_its_levels(discrete: ModelDescription, z: float) -> None:
    asked = SampleRequest(seed=1)
    assert asked.job({"z": np.array([[0.0], [5.0]])}, discrete, UNLIMITED).rows == 2
    with pytest.raises(InvalidInput, match="no latent of family 'mixture'") as refused:
        asked.job({"z": np.array([[0.0], [z]])}, discrete, UNLIMITED)
    assert refused.value.places[0].pointer == "/z/1"


@pytest.mark.parametrize(
    ("asked", "rows", "pointer"),
    [
        (SampleRequest(num_samples=4), 0, "/num_samples"),
        (EncodeRequest(), 4, "/x"),
        (EncodeRequest(num_samples=6), 3, "/num_samples"),
        (ElboRequest(num_samples=6), 3, "/num_samples"),
        (ElboRequest(num_importance_samples=8), 3, "/num_importance_samples"),
    ],
)
def test_what_is_over_a_limit_is_refused(
    conditional: ModelDescription, levels_rows: Any, asked: VerbRequest, rows: int, pointer: str
) -> None:
    arrays = {"x": levels_rows[:rows] if rows else None, "label": np.array(0)}
    asked.job(arrays, conditional, UNLIMITED)
    with pytest.raises(InvalidInput, match="the limit is") as refused:
        asked.job(arrays, conditional, SMALL)
    assert refused.value.places[0].pointer == pointer


def test_a_target_may_take_as_many_draws_as_the_limit(conditional: ModelDescription, levels_rows: Any) -> None:
    asked = ElboRequest(target_standard_error=0.1)
    assert asked.job({"x": levels_rows[:3]}, conditional, SMALL).num_samples == 5


def test_each_wrong_field_is_named() -> None:
    with pytest.raises(InvalidInput) as refused:
        validated(SampleRequest, {"seed": -1, "colour": "red", "temperature": 101})
    assert {place.pointer for place in refused.value.places} == {"/seed", "/colour", "/temperature"}


def test_the_last_row_has_an_index_below_the_largest(conditional: ModelDescription, levels_rows: Any) -> None:
    asked = ElboRequest(first_index=2**56 - 3)
    assert asked.job({"x": levels_rows[:3]}, conditional, UNLIMITED).rows == 3
    with pytest.raises(InvalidInput, match="4 rows do not fit"):
        asked.job({"x": levels_rows[:4]}, conditional, UNLIMITED)


def test_a_description_names_its_version(conditional: ModelDescription) -> None:
    later = replace(conditional, version=12)
    assert (str(later), later.identity["version"], later.conditional) == ("model@12", 12, True)
