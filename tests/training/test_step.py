"""One gradient step: the same numbers whether tensors or the host decide that it counts."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from elbod.generators import checkpoint
from elbod.generators.base import Generator
from elbod.training import datasets, recipes
from elbod.training.errors import Diverged
from elbod.training.parallel import Group
from elbod.training.recipes import Recipe
from elbod.training.step import Batch, Step, Tally
from elbod.training.worker import prepare

CPU = torch.device("cpu")
ROWS, DRAWS = 16, 3
LIMIT = 4


@pytest.fixture
def recipe(small: Recipe) -> Recipe:
    return recipes.override(small, ["clip_norm=20", "weight_decay=0.01", f"max_skipped_in_a_row={LIMIT}"])


@pytest.fixture
def generator(recipe: Recipe) -> Generator:
    return prepare(recipe, datasets.load(recipe.data), seed=0)[0].train()


def make_step(generator: Generator, recipe: Recipe) -> tuple[Step, Generator]:
    average = copy.deepcopy(generator).requires_grad_(False)
    return Step(generator, average, recipe, Group(), Tally(100, LIMIT, CPU), CPU), average


def batches(generator: Generator, count: int, broken: tuple[int, ...] = ()) -> list[Batch]:
    """Random rows; noise that is not finite makes the objective of a broken batch so. Every third is of draws."""
    random = torch.Generator().manual_seed(1)
    made = []
    for index in range(count):
        x = torch.randint(0, 2, (ROWS, *generator.event_shape), generator=random, dtype=torch.uint8)
        shape = (ROWS, DRAWS, generator.latent_dim) if index % 3 == 2 else (ROWS, generator.latent_dim)
        noise = torch.randn(shape, generator=random)
        made.append(Batch(x, noise.fill_(math.inf) if index in broken else noise))
    return made


def schedule(index: int) -> tuple[float, float, float]:
    """The learning rate, beta and the decay of the average in a step."""
    return 1e-3 * (index + 1) / 7, (index + 1) / 13, min(0.999, (1 + index) / (10 + index))


def train_by_the_host(generator: Generator, recipe: Recipe, given: list[Batch]) -> Generator:
    """The average weights after plain steps, whose host looks at every objective and hands over plain numbers."""
    average = copy.deepcopy(generator).requires_grad_(False)
    parameters = list(generator.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=recipe.weight_decay, fused=True)
    for index, batch in enumerate(given):
        optimizer.param_groups[0]["lr"], beta, decay = schedule(index)
        if batch.is_importance_weighted:
            objective = generator.importance_objective(batch.x, batch.noise).mean()
        else:
            objective = generator.objective(batch.x, batch.noise, beta).mean()
        optimizer.zero_grad()
        (-objective).backward()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not math.isfinite(float(objective.detach() + norm)):
            continue
        nn.utils.clip_grads_with_norm_(parameters, recipe.clip_norm, norm)
        optimizer.step()
        averages: list[Tensor] = list(average.parameters())
        torch._foreach_lerp_(averages, list(parameters), 1 - decay)
    return average


def test_steps_that_tensors_decide_give_the_bytes_of_steps_that_the_host_decides(
    generator: Generator, recipe: Recipe
) -> None:
    given = batches(generator, 12, broken=(0, 4, 5, 8))
    other = copy.deepcopy(generator)
    step, average = make_step(generator, recipe)

    for index, batch in enumerate(given):
        step.schedule(*schedule(index))
        step.take(batch)
    expected = train_by_the_host(other, recipe, given)

    assert checkpoint.save(generator) == checkpoint.save(other)
    assert checkpoint.save(average) == checkpoint.save(expected)
    assert (step.tally.skipped, step.tally.in_a_row) == (4, 0)
    assert len(step.tally.drain()) == 8
    assert len(step.tally.drain()) == 0


def test_after_too_many_steps_in_a_row_none_counts_however_late_that_is_seen(
    generator: Generator, recipe: Recipe
) -> None:
    given = batches(generator, 15, broken=(1, *range(5, 5 + LIMIT)))
    step, average = make_step(generator, recipe)
    step.schedule(1e-3, 1.0, 0.9)
    for batch in given[: 5 + LIMIT]:
        step.take(batch)
    weights = checkpoint.save(generator), checkpoint.save(average)
    with pytest.raises(Diverged) as at_once:
        step.check(5 + LIMIT)

    for batch in given[5 + LIMIT :]:
        step.take(batch)

    with pytest.raises(Diverged, match=f"not finite in {LIMIT} steps in a row, up to step {5 + LIMIT}: ") as late:
        step.check(len(given))
    assert str(late.value) == str(at_once.value)
    assert weights == (checkpoint.save(generator), checkpoint.save(average))
    assert (step.tally.skipped, step.tally.in_a_row) == (1 + LIMIT, LIMIT)
    assert len(step.tally.drain()) == 4


def test_idle_steps_leave_weights_moments_and_numbers_as_they_were(generator: Generator, recipe: Recipe) -> None:
    given = batches(generator, 6, broken=(1,))
    other = copy.deepcopy(generator)
    (step, average), (plain, expected) = make_step(generator, recipe), make_step(other, recipe)

    for each in (step, plain):
        each.schedule(1e-3, 0.5, 0.9)
        for batch in given:
            # As before a capture: of each kind, at any moment.
            if each is step:
                with step.tally.idle():
                    step.take(given[0])
                    step.take(given[2])
            each.take(batch)

    assert checkpoint.save(generator) == checkpoint.save(other)
    assert checkpoint.save(average) == checkpoint.save(expected)
    moments, same = step.state(), plain.state()
    assert moments.keys() == same.keys()
    assert all(torch.equal(value, same[name]) for name, value in moments.items())
    assert (step.tally.skipped, step.tally.in_a_row) == (plain.tally.skipped, plain.tally.in_a_row) == (1, 0)
    assert torch.equal(step.tally.drain(), plain.tally.drain())


def test_processes_that_train_together_add_up_what_they_share_along_with_their_gradients(
    generator: Generator, recipe: Recipe
) -> None:
    class Doubles(Group):
        """Two processes of which the other one sends the same."""

        def add_up(self, tensors: Sequence[Tensor]) -> None:
            for tensor in tensors:
                tensor.mul_(2)

    average = copy.deepcopy(generator).requires_grad_(False)
    step = Step(generator, average, recipe, Doubles(0, 2), Tally(5, LIMIT, CPU), CPU)
    step.schedule(1e-3, 1.0, 0.9)
    wishes = torch.tensor([1.0, 0.0])
    (batch,) = batches(generator, 1)

    step.take(replace(batch, shared=(wishes,)))

    assert wishes.tolist() == [2, 0]
    assert step.tally.skipped == 0
