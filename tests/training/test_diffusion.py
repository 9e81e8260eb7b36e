"""The training loop with a family of levels: the bound itself as the objective, and the profile that levels follow."""

import copy
from dataclasses import replace

import pytest
import torch

from elbod.generators import checkpoint
from elbod.generators.diffusion import Diffusion
from elbod.training import datasets
from elbod.training.errors import InvalidRecipe
from elbod.training.loop import Loop
from elbod.training.parallel import Group
from elbod.training.pauses import Pause
from elbod.training.recipes import Recipe
from elbod.training.state import State
from elbod.training.step import Batch, Step, Tally
from elbod.training.worker import prepare

RECIPE = Recipe(
    name="small",
    data="digits",
    family="diffusion",
    likelihood="discretized_logistic",
    levels=17,
    spec={"num_levels": 4, "width": 16, "blocks": 1, "dropout": 0.1},
    epochs=4,
    learning_rate=5e-3,
    ema_decay=0.9,
    evaluate_every=2,
)


def _start(recipe: Recipe = RECIPE) -> Loop:
    generator, parts = prepare(recipe, datasets.load(recipe.data), 0)
    return Loop(generator, parts, recipe, 0, torch.device("cpu"))


class _SavesOnce:
    """Asks for the state after the 13th step."""

    def __init__(self) -> None:
        self.steps, self.state = 0, State({}, {})

    def wanted(self, end_of_epoch: bool, end_of_training: bool = False) -> Pause:
        self.steps += 1
        return Pause.SAVE if self.steps == 13 else Pause.NONE

    def pause(self, what: Pause, state: State) -> None:
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        self.state = State(tensors, dict(state.plain))


def test_training_raises_the_held_out_bound_of_a_diffusion() -> None:
    loop = _start(replace(RECIPE, epochs=12))
    points = list(loop.points())
    assert points[-1].elbo > points[0].elbo + 3
    assert points[-1].objective is not None
    assert abs(points[-1].objective - points[-1].elbo) < 5


def test_a_resumed_diffusion_has_the_weights_of_one_that_never_stopped() -> None:
    """The profile by which levels are sampled is part of the state."""
    whole, saves = _start(), _SavesOnce()
    list(whole.points(saves))
    resumed = _start()
    resumed.restore(saves.state)
    list(resumed.points())
    assert checkpoint.save(resumed.best) == checkpoint.save(whole.best)
    assert resumed.curve == whole.curve


def test_only_steps_that_count_move_the_profile() -> None:
    generator, parts = prepare(RECIPE, datasets.load(RECIPE.data), 0)
    assert isinstance(generator, Diffusion)
    tally, device = Tally(5, 3, torch.device("cpu")), torch.device("cpu")
    average = copy.deepcopy(generator).requires_grad_(False)
    step = Step(generator.train(), average, RECIPE, Group(), tally, device)
    step.schedule(1e-3, 1.0, 0.9)
    noise = torch.randn(30, generator.objective_noise_dimensions, generator=torch.Generator().manual_seed(0))
    batch, before = Batch(torch.from_numpy(parts.train[:30]), noise), generator.profile.clone()

    with tally.idle():
        step.take(batch)
    step.take(replace(batch, noise=torch.full_like(noise, torch.nan)))
    assert torch.equal(generator.profile, before)
    assert tally.skipped == 1

    step.take(batch)
    assert (generator.profile != before).all()


def test_importance_weighted_epochs_are_refused_before_the_first_step() -> None:
    recipe = replace(RECIPE, importance_epochs=1.0)
    with pytest.raises(InvalidRecipe, match="trains its ELBO alone: set importance_epochs=0"):
        prepare(recipe, datasets.load(recipe.data), 0)
