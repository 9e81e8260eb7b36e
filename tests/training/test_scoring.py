import numpy as np
import pytest
import torch

from elbod.generators.base import Generator
from elbod.training import datasets, recipes
from elbod.training.check import check_bounds
from elbod.training.errors import RefusedModel
from elbod.training.scoring import score
from elbod.training.worker import prepare


@pytest.fixture
def model(small) -> tuple[Generator, torch.Tensor]:
    generator, parts = prepare(small, datasets.load_digits(), seed=0)
    return generator.eval(), torch.from_numpy(parts.test[:20])


@pytest.fixture
def exact(table) -> tuple[Generator, torch.Tensor]:
    recipe = recipes.override(recipes.custom("ppca", "gaussian", table), ["latent_dim=1"])
    generator, parts = prepare(recipe, datasets.load(table), seed=0)
    return generator.eval(), torch.from_numpy(parts.test)


def test_a_row_scores_the_same_alone_and_in_company(model):
    generator, x = model

    together = score(generator, x, seed=3, num_samples=5, num_importance_samples=7)
    alone = score(generator, x[11:12], seed=3, num_samples=5, num_importance_samples=7, first_index=11)

    assert together.elbo.elbo[11] == pytest.approx(alone.elbo.elbo[0], rel=1e-6)
    assert together.importance.iwae[11] == pytest.approx(alone.importance.iwae[0], rel=1e-6)


def test_the_first_draws_are_shared_by_every_number_of_draws(model):
    generator, x = model

    few = score(generator, x, seed=3, num_samples=2).elbo
    many = score(generator, x, seed=3, num_samples=2, num_importance_samples=300).elbo

    assert many.elbo == pytest.approx(few.elbo, rel=1e-6)


def test_both_forms_of_the_bound_agree_in_float64(model):
    generator, x = model

    check_bounds(score(generator, x, seed=0, num_samples=3).elbo)


def test_every_importance_weight_of_an_exact_posterior_is_the_evidence(exact):
    generator, x = exact

    scores = score(generator, x, seed=0, num_samples=2, num_importance_samples=1)

    assert scores.importance.iwae == pytest.approx(scores.log_evidence, abs=1e-9)
    assert scores.kl_per_dimension is None


def test_kl_per_dimension_sums_to_the_kl(model):
    generator, x = model

    scores = score(generator, x, seed=0, num_samples=1)

    assert scores.kl_per_dimension.sum(1) == pytest.approx(scores.elbo.kl)


def test_a_model_in_training_mode_is_never_scored(model):
    generator, x = model

    with pytest.raises(ValueError, match="eval mode"):
        score(generator.train(), x, seed=0, num_samples=1)


def test_a_bound_that_is_not_finite_refuses_the_model_naming_the_row(model):
    generator, x = model
    with torch.no_grad():
        for parameter in generator.decoder.parameters():
            parameter.fill_(np.nan)

    scores = score(generator, x, seed=0, num_samples=1, num_importance_samples=4)

    with pytest.raises(RefusedModel, match="held-out ELBO of test row 0 is nan"):
        check_bounds(scores.elbo)
