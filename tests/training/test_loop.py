from dataclasses import replace

import numpy as np
import pytest
import torch

from elbod.generators import bounds, checkpoint
from elbod.training import datasets, recipes
from elbod.training.errors import Diverged
from elbod.training.loop import Loop
from elbod.training.randomness import draw_bits, random_generator
from elbod.training.recipes import Recipe
from elbod.training.scoring import score
from elbod.training.worker import prepare

CPU = torch.device("cpu")


def start(recipe: Recipe, seed: int = 0, rows: int | None = None) -> Loop:
    generator, parts = prepare(recipe, datasets.load(recipe.data), seed)
    return Loop(generator, replace(parts, train=parts.train[:rows]), recipe, seed, CPU)


def overfit(recipe: Recipe, *settings: str) -> Loop:
    """Few rows, many epochs: the held-out bound soon gets worse."""
    return start(recipes.override(recipe, ["hidden=128", "learning_rate=0.01", "ema_decay=0.9", *settings]), rows=64)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(small):
    recipe = recipes.override(small, ["dropout=0.1", "epochs=2"])
    weights = []
    for seed in (7, 7, 8):
        torch.manual_seed(len(weights))  # what the caller did with torch's own generator plays no part
        loop = start(recipe, seed)
        list(loop.points())
        weights.append(checkpoint.save(loop.best))

    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_training_leaves_torchs_own_generator_alone(small):
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    list(start(recipes.override(small, ["dropout=0.1", "epochs=1"])).points())

    assert torch.equal(torch.rand(3), expected)


def test_training_raises_the_held_out_bound_and_records_the_curve(small):
    loop = start(small)

    points = list(loop.points())

    assert points == loop.curve
    assert [point.epoch for point in points] == [1, 2, 3, 4]
    assert [point.step for point in points] == [18, 36, 54, 72]
    assert points[-1].elbo > points[0].elbo
    assert all(point.standard_error > 0 for point in points)


def test_the_best_weights_are_kept_when_later_ones_are_worse(small):
    loop = overfit(small, "epochs=100", "evaluate_every=5")

    points = list(loop.points())
    best = max(points, key=lambda point: point.elbo)
    scored = score(loop.best, loop._validation, seed=1, num_samples=4).elbo.elbo.mean()

    assert loop.best_point is best
    assert points[-1].elbo < best.elbo - 1
    assert scored == pytest.approx(best.elbo)


def test_the_last_epochs_may_maximise_the_importance_weighted_bound_and_choose_weights_by_it(small):
    settings = ["epochs=24", "hidden=64", "learning_rate=3e-3", "evaluate_every=4"]
    plain = start(recipes.override(small, settings))
    weighted = start(recipes.override(small, [*settings, "importance_epochs=12", "importance_draws=8"]))
    for loop in (plain, weighted):
        list(loop.points())

    assert [point.iwae is None for point in weighted.curve] == [True] * 3 + [False] * 3
    assert weighted.curve[:3] == plain.curve[:3]
    assert weighted.best_point == max(weighted.curve[3:], key=lambda point: point.iwae)
    assert all(point.iwae > point.elbo for point in weighted.curve[3:])
    bounds_of = [score(loop.best, loop._validation, 1, 1, 64).importance.iwae.mean() for loop in (plain, weighted)]
    assert bounds_of[1] > bounds_of[0]


def test_patience_ends_training_early(small):
    loop = overfit(small, "epochs=100", "evaluate_every=5", "patience=2")

    points = list(loop.points())

    assert points[-1].epoch < 100
    assert points[-3] is loop.best_point


def test_kl_warm_up_is_in_the_objective_and_never_in_the_reported_bound(small):
    # beta stays below 1 % for the whole run.
    loop = start(recipes.override(small, ["kl_warmup_epochs=3000", "epochs=30", "evaluate_every=30"]))

    *_, last = loop.points()
    elbo = score(loop.best, loop._validation, seed=1, num_samples=4).elbo

    assert elbo.kl.mean() > 5
    assert last.elbo == pytest.approx((elbo.reconstruction - elbo.kl).mean())
    assert last.objective > last.elbo + 5


def test_the_reported_bound_is_of_the_average_weights_without_dropout(small):
    loop = start(recipes.override(small, ["dropout=0.5", "epochs=1"]))

    (point,) = loop.points()
    scores = [score(loop.best, loop._validation, seed=1, num_samples=4).elbo for _ in range(2)]

    assert np.array_equal(scores[0].elbo, scores[1].elbo)
    assert point.elbo == bounds.summarize(scores[0].elbo, scores[0].standard_error).mean
    averaged = dict(loop.best.named_parameters())
    assert any(not torch.equal(p, averaged[name]) for name, p in loop._generator.named_parameters())


def test_steps_that_are_not_finite_are_skipped_and_end_training_when_they_do_not_stop(small):
    recipe = recipes.override(small, ["learning_rate=1e30", "max_skipped_in_a_row=5", "warmup_epochs=0"])
    loop = start(recipe)

    with pytest.raises(Diverged, match=r"not finite in 5 steps in a row, up to step \d+: try a smaller learning_rate"):
        list(loop.points())

    assert loop.skipped_steps == 5


def test_one_row_that_overflows_costs_its_steps_and_nothing_else(tmp_path):
    x = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    recipe = recipes.override(
        replace(recipes.custom("vae", "gaussian", "unused"), epochs=3), ["hidden=8", "latent_dim=2", "batch_size=10"]
    )
    generator, parts = prepare(recipe, datasets.Dataset("mine", x, None, ""), seed=0)
    parts.train[0] = 3e38
    loop = Loop(generator, parts, recipe, 0, CPU)

    points = list(loop.points())

    assert loop.skipped_steps == 3  # its batch, once an epoch
    assert all(np.isfinite(point.elbo) for point in points)
    assert all(torch.isfinite(p).all() for p in loop.best.parameters())


def test_a_matmul_precision_is_of_training_steps_alone(small):
    before = torch.get_float32_matmul_precision()
    loop = start(recipes.override(small, ["matmul_precision=medium", "epochs=2"]))

    seen = [(torch.get_float32_matmul_precision(), point.elbo) for point in loop.points()]
    scored = score(loop.best, loop._validation, seed=1, num_samples=4).elbo.elbo.mean()

    assert [precision for precision, _ in seen] == [before] * 2
    assert torch.get_float32_matmul_precision() == before
    assert scored == pytest.approx(max(elbo for _, elbo in seen))


def test_families_in_closed_form_are_finished_when_initialized(table):
    loop = start(recipes.override(recipes.custom("ppca", "gaussian", table), ["latent_dim=1"]))

    (point,) = loop.points()

    assert (point.epoch, point.step, point.objective) == (0, 0, None)
    assert loop.best_point is point


def test_bytes_become_bits_with_probability_exactly_x_over_255():
    x = torch.tensor([0, 1, 128, 254, 255], dtype=torch.uint8).repeat(200_000, 1)

    share = draw_bits(x, random_generator(0, "bits", CPU)).double().mean(0)

    error = (share - x[0] / 255).abs()
    assert error[0] == error[4] == 0
    assert (error < 5 * 0.5 / np.sqrt(200_000)).all()


def test_floats_become_bits_with_probability_x():
    x = torch.tensor([0.0, 0.25, 1.0]).repeat(100_000, 1)

    share = draw_bits(x, random_generator(0, "bits", CPU)).double().mean(0)

    assert share.tolist() == pytest.approx([0, 0.25, 1], abs=0.01)
