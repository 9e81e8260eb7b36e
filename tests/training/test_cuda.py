"""Training on a GPU, where there is one: steps as CUDA graphs keep the promises of eager ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from elbod.generators import checkpoint
from elbod.generators.vae import VAE, VAESpec
from elbod.training import datasets, recipes
from elbod.training.datasets import Dataset
from elbod.training.errors import Diverged
from elbod.training.loop import Loop
from elbod.training.pauses import Pause
from elbod.training.recipes import Recipe
from elbod.training.state import State
from elbod.training.worker import prepare

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

EAGER = "without a CUDA graph"
IMAGES = ("batch_size=64", "epochs=3", "evaluate_every=2", "kl_warmup_epochs=1", "learning_rate=1e-3")
# All that is random in training, or that another capture is needed for.
SETTINGS = {
    "digits": (
        *("hidden=32", "latent_dim=4", "dropout=0.2", "epochs=3", "batch_size=64", "evaluate_every=2"),
        *("importance_epochs=1.5", "importance_draws=3"),
    ),
    "digits-labels": ("hidden=32", "latent_dim=4", "dropout=0", "epochs=2", "batch_size=64", "evaluate_every=1"),
    "digits-diffusion": ("channels=8", "blocks=1", "num_levels=8", *IMAGES),
    "fashion-mnist-binary-conv": ("channels=8,16", "latent_dim=4", *IMAGES),
    "fashion-mnist-binary-ladder": ("channels=8,16", "groups=1,2", "latent_channels=2,2", *IMAGES),
}


def start(recipe: Recipe, dataset: Dataset | None = None) -> Loop:
    generator, parts = prepare(recipe, dataset or datasets.load("digits"), seed=0)
    return Loop(generator, parts, recipe, 0, torch.device("cuda"))


def named(name: str) -> Recipe:
    """The recipe with a small network, on the digits."""
    return replace(recipes.override(recipes.recipe(name), SETTINGS[name]), data="digits", protocol="hash")


class Once:
    """Pauses after one step, and keeps the state."""

    def __init__(self, step: int) -> None:
        self.step, self.steps = step, 0
        self.state: State | None = None

    def wanted(self, end_of_epoch: bool, end_of_training: bool = False) -> Pause:
        self.steps += 1
        return Pause.SAVE if self.steps == self.step else Pause.NONE

    def pause(self, what: Pause, state: State) -> None:
        self.state = State.unpack(state.pack())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pause_and_a_resumed_run_change_no_byte_of_captured_training(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, pauses = named(name), Once(25)
    plain, paused = start(recipe), start(recipe)
    points = list(plain.points())
    assert list(paused.points(pauses)) == points
    assert pauses.state is not None

    resumed = start(recipe)
    resumed.restore(pauses.state)
    list(resumed.points())

    assert EAGER not in caplog.text
    assert resumed.curve == points
    assert checkpoint.save(plain.best) == checkpoint.save(paused.best) == checkpoint.save(resumed.best)


@pytest.mark.parametrize("name", SETTINGS)
def test_captured_steps_agree_with_eager_ones_up_to_rounding(name: str, caplog: pytest.LogCaptureFixture) -> None:
    loops = [start(named(name)) for _ in range(2)]
    loops[1].captures = False

    captured, eager = (list(loop.points()) for loop in loops)

    assert EAGER not in caplog.text
    assert [point.step for point in captured] == [point.step for point in eager]
    for found, expected in zip(captured, eager, strict=True):
        assert found.objective == pytest.approx(expected.objective, rel=1e-2)
        assert found.elbo == pytest.approx(expected.elbo, rel=1e-2)


def test_captured_steps_draw_as_many_random_numbers_as_eager_ones(caplog: pytest.LogCaptureFixture) -> None:
    states = []
    for captures in (True, False):
        loop, pauses = start(named("digits")), Once(40)
        loop.captures = captures
        list(loop.points(pauses))
        assert pauses.state is not None
        states.append({name: value.tolist() for name, value in pauses.state.part("random").items()})

    assert EAGER not in caplog.text
    assert states[0] == states[1]


def test_a_row_that_overflows_costs_its_steps_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    x = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    settings = ["hidden=8", "latent_dim=2", "batch_size=10", "epochs=3"]
    recipe = recipes.override(recipes.custom("vae", "gaussian", "unused"), settings)
    generator, parts = prepare(recipe, Dataset("mine", x, None, ""), seed=0)
    parts.train[0] = 3e38
    loop = Loop(generator, parts, recipe, 0, torch.device("cuda"))

    points = list(loop.points())

    assert EAGER not in caplog.text
    assert loop.skipped_steps == 3  # its batch, once an epoch
    assert all(np.isfinite(point.elbo) for point in points)
    assert all(torch.isfinite(p).all() for p in loop.best.parameters())


def test_training_that_diverges_ends_with_the_sentence_of_eager_steps() -> None:
    settings = ["learning_rate=1e30", "max_skipped_in_a_row=5", "warmup_epochs=0", "hidden=32", "latent_dim=4"]
    recipe = recipes.override(recipes.recipe("digits"), settings)
    sentences = []
    for captures in (True, False):
        loop = start(recipe)
        loop.captures = captures
        with pytest.raises(Diverged, match="not finite in 5 steps in a row") as error:
            list(loop.points())
        sentences.append(str(error.value))
        assert loop.skipped_steps == 5

    assert sentences[0] == sentences[1]


class Waiting(VAE):
    """Looks at the device in every step."""

    def objective(self, x: Tensor, noise: Tensor, beta: float, label: Tensor | None = None) -> Tensor:
        assert float(noise.abs().max()) > 0
        return super().objective(x, noise, beta, label)


def test_a_model_that_waits_for_the_device_trains_eagerly_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = recipes.override(named("digits"), ["importance_epochs=0"])
    weights = []
    for captures in (True, False):
        generator, parts = prepare(recipe, datasets.load("digits"), seed=0)
        waiting = Waiting.build(generator.blueprint, VAESpec(**generator.blueprint.spec))
        waiting.load_state_dict(generator.state_dict())
        loop = Loop(waiting, parts, recipe, 0, torch.device("cuda"))
        loop.captures = captures
        list(loop.points())
        weights.append(checkpoint.save(loop.best))

    lines = [record for record in caplog.records if EAGER in record.message]
    assert len(lines) == 1
    assert weights[0] == weights[1]
