"""The training loop: data in memory, their order, schedules, pauses and evaluations around a step (`step`).

The training objective is E_q[log p(x|z)] - beta KL(q(z|x) || p(z)) with a beta that may rise from 0 to 1, estimated
with one draw; it goes by the name `objective`. What stops training, chooses weights and is reported is the real
held-out ELBO (`scoring`), of an exponential moving average of the weights, in `eval` mode.

In a recipe's last epochs the objective may be the importance-weighted bound instead. It rises at the ELBO's expense,
so weights are then chosen by the held-out importance-weighted bound, of as many draws.
"""

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from elbod.generators import bounds
from elbod.generators.base import Generator
from elbod.training import schedules
from elbod.training.datasets import Array
from elbod.training.errors import CannotResume
from elbod.training.graphs import CapturedStep
from elbod.training.parallel import Group
from elbod.training.pauses import NoPauses, Pause, Pauses
from elbod.training.randomness import derive_seed, draw_bits, dropout_state, random_generator, set_dropout_state
from elbod.training.recipes import Recipe
from elbod.training.scoring import score
from elbod.training.splits import Labels, Split
from elbod.training.state import State, fill, prefixed
from elbod.training.step import Batch, Step, Tally

# Held-out rows keep their noise from one evaluation to the next, so that two of them differ by the weights alone.
VALIDATION_SEED = 1
_VALIDATION_SAMPLES, _VALIDATION_PATHS = 4, 1

# Steps after which a GPU is waited for, so that training that cannot go on ends. A CPU has nothing to wait for.
_CHECK_EVERY = {"cuda": 50, "cpu": 1}


@dataclass(frozen=True)
class Point:
    """One evaluation. `objective` is the mean training objective since the last one (nats a row, higher is better;
    None where nothing was trained by gradient), `elbo` the held-out bound with its standard error over rows, `iwae` the
    importance-weighted one while that is the objective."""

    epoch: int
    step: int
    objective: float | None
    elbo: float
    standard_error: float
    iwae: float | None = None

    def is_better_than(self, other: "Point | None") -> bool:
        """By the bound that is trained; anything is better than nothing and NaN."""
        if other is None or math.isnan(other.elbo):
            return True
        if self.iwae is not None:
            return other.iwae is None or self.iwae > other.iwae
        return self.elbo > other.elbo


class Loop:
    """Trains `generator`; iterate over `points()`, then take `best`.

    `parts.train` is (n, *event_shape) in data units, or grey values of which every visit draws new bits if the recipe's
    binarization is stochastic; `parts.validation` is in model units. Both are moved to `device` and stay there, as do
    their labels for a conditional family.
    """

    def __init__(
        self,
        generator: Generator,
        parts: Split,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        also_every: int | None = None,
        group: Group | None = None,
    ) -> None:
        """`also_every` adds evaluations after every so many epochs to those of the recipe; `group` trains together."""
        self.recipe = recipe
        self.curve: list[Point] = []
        self.best_point: Point | None = None
        self.steps = 0
        self.seconds = 0.0
        self._train, self._validation = (torch.from_numpy(rows).to(device) for rows in (parts.train, parts.validation))
        self._train_labels, self._validation_labels = (
            torch.from_numpy(labels).to(device) if labels is not None else None
            for labels in conditions(generator, parts.labels, "train", "validation")
        )
        self._generator = generator.to(device).train()
        self._average = copy.deepcopy(self._generator).eval().requires_grad_(False)
        self._best = {name: value.clone() for name, value in self._average.state_dict().items()}
        self._seed, self._device = seed, device
        self._evaluation_periods = [recipe.evaluate_every, *([also_every] if also_every else [])]
        self._group = group or Group()
        # Whether steps run as CUDA graphs, unless that is cleared before `points`. Processes that train together stay
        # eager: they ask each other about pauses in every step, so the host waits for each of them anyway.
        self.captures = device.type == "cuda" and self._group.size == 1
        # Where training is: the epoch, how many of its batches are done, and evaluations without a better bound.
        self._epoch, self._batch, self._waited = 1, 0, 0
        self._objectives: list[Tensor] = []  # since the last evaluation, on the CPU
        rows = len(self._train)
        self._rows = min(recipe.batch_size, rows)
        # Steps of an epoch begin at these places of its order; a remainder smaller than a batch is left out.
        self._starts = range(0, rows - self._rows + 1, self._rows)
        self._tally = Tally(len(self._starts), recipe.max_skipped_in_a_row, device)
        self._step: Step | None = None
        if any(p.requires_grad for p in self._generator.parameters()):
            self._step = Step(self._generator, self._average, recipe, self._group, self._tally, device)
        self._dropout: Tensor | None = None  # torch's own generator in the middle of an epoch that is resumed
        self._bit_noise = random_generator(seed, "binarization", device)
        self._shuffle = random_generator(seed, "permutation", torch.device("cpu"))
        self._before_permutation = self._shuffle.get_state()
        self._latent_noise = random_generator(seed, "noise", device)

    @property
    def skipped_steps(self) -> int:
        return self._tally.skipped

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0

    @property
    def current(self) -> Generator:
        """The average weights as they are now: on the CPU, in `eval` mode, gradients off."""
        return copy.deepcopy(self._average).cpu()

    @property
    def best(self) -> Generator:
        """The average weights of the best held-out bound so far, likewise."""
        generator = self.current
        generator.load_state_dict(self._best)
        return generator

    def points(self, pauses: Pauses | None = None) -> Iterator[Point]:
        """Train, yielding after every evaluation, until the epochs or the patience run out. Raises Diverged."""
        if self._step is None:
            # Families that are fitted in closed form are finished when they are initialized.
            yield self._evaluate(epoch=0, objective=None)
            return
        recipe, pauses = self.recipe, pauses or NoPauses()
        take = CapturedStep(self._step, self._device).take if self.captures else self._step.take
        for epoch in range(self._epoch, recipe.epochs + 1):
            self._epoch = epoch
            self._visit(self._step, take, pauses)
            self._batch = 0
            if epoch != recipe.epochs and all(epoch % period for period in self._evaluation_periods):
                continue
            objectives = torch.cat(self._objectives)
            point = self._evaluate(epoch, float(objectives.mean()) if len(objectives) else None)
            self._objectives = []
            self._waited = 0 if point is self.best_point else self._waited + 1
            yield point
            if recipe.patience is not None and self._waited >= recipe.patience:
                return

    def state(self) -> State:
        """All that `restore` needs to go on to the same weights, to be taken between two steps of an epoch.

        Every process of a group has to take it; that of the first one is whole.
        """
        assert self._step is not None
        tensors = {
            f"random/dropout/{rank}": state
            for rank, state in enumerate(self._group.gather(dropout_state(self._device)))
        }
        if not self._group.first:
            return State({}, {})
        for name, generator in self._generators.items():
            tensors[f"random/{name}"] = generator.get_state()
        tensors["random/permutation"] = self._before_permutation
        self._objectives.append(self._tally.drain())
        tensors["objectives"] = torch.cat(self._objectives)
        tensors |= self._step.state()
        tensors |= prefixed("weights", self._generator.state_dict())
        tensors |= prefixed("average", self._average.state_dict())
        tensors |= prefixed("best", self._best)
        best = [index for index, point in enumerate(self.curve) if point is self.best_point]
        return State(
            tensors,
            {
                "epoch": self._epoch,
                "batch": self._batch,
                "waited": self._waited,
                "steps": self.steps,
                "skipped_steps": self.skipped_steps,
                "skipped_in_a_row": self._tally.in_a_row,
                "seconds": self.seconds,
                "curve": [asdict(point) for point in self.curve],
                "best": best[0] if best else None,
            },
        )

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Go on from there; before `points`. Raises CannotResume if it is the state of another model."""
        if self._step is None:
            raise CannotResume(f"family {self._generator.blueprint.family!r} has no training state")
        try:
            self._restore_numbers(state)
            for name, generator in self._generators.items():
                generator.set_state(state.tensors[f"random/{name}"])
            self._shuffle.set_state(state.tensors["random/permutation"])
            self._dropout = state.tensors[f"random/dropout/{self._group.rank}"]
        except (KeyError, TypeError, IndexError, RuntimeError) as error:
            raise CannotResume(f"the training state lacks something: {error}") from error
        fill(self._generator.state_dict(), state.part("weights"), "weights")
        fill(self._average.state_dict(), state.part("average"), "average weights")
        fill(self._best, state.part("best"), "best weights")
        self._step.restore(state)

    def _restore_numbers(self, state: State) -> None:
        plain = state.plain
        self._epoch, self._batch, self._waited = plain["epoch"], plain["batch"], plain["waited"]
        self.steps, self.seconds = plain["steps"], plain["seconds"]
        self._tally.restore(plain["skipped_steps"], plain["skipped_in_a_row"])
        self.curve = [Point(**point) for point in plain["curve"]]
        self.best_point = None if plain["best"] is None else self.curve[plain["best"]]
        objectives = state.tensors.get("objectives")
        self._objectives = [] if objectives is None else [objectives]

    @property
    def _generators(self) -> dict[str, torch.Generator]:
        return {"binarization": self._bit_noise, "noise": self._latent_noise}

    def _visit(self, step: Step, take: Callable[[Batch], None], pauses: Pauses) -> None:
        """What is left of this epoch: the rows in a new order."""
        started = time.perf_counter()
        self._before_permutation = self._shuffle.get_state()
        order = torch.randperm(len(self._train), generator=self._shuffle).to(self._device)
        # Dropout draws from torch's global generator: give it a seed of its own, and leave the caller's alone.
        devices = [self._device] if self._device.type == "cuda" else []
        with _arithmetic(self.recipe.matmul_precision), torch.random.fork_rng(devices=devices):
            # Processes that train together drop different units.
            part = f"/{self._group.rank}" if self._group.rank else ""
            torch.manual_seed(derive_seed(self._seed, f"dropout/{self._epoch}{part}"))
            if self._dropout is not None:
                set_dropout_state(self._device, self._dropout)
                self._dropout = None
            for start in self._starts[self._batch :]:
                self._schedule(step)
                last = start == self._starts[-1]
                wanted = pauses.wanted(last, last and self._epoch == self.recipe.epochs)
                pause = self._take(take, self._batch_of(order[start : start + self._rows]), wanted)
                self._batch += 1
                if pause or self.steps % _CHECK_EVERY[self._device.type] == 0:
                    step.check(self.steps)
                if pause:
                    now = time.perf_counter()
                    self.seconds, started = self.seconds + now - started, now
                    pauses.pause(pause, self.state())
        step.check(self.steps)
        self._objectives.append(self._tally.drain())
        self.seconds += time.perf_counter() - started

    def _schedule(self, step: Step) -> None:
        recipe, t, per_epoch = self.recipe, self.steps, len(self._starts)
        factor = schedules.learning_rate(t, recipe.epochs * per_epoch, round(recipe.warmup_epochs * per_epoch))
        step.schedule(
            recipe.learning_rate * factor,
            schedules.beta(t, round(recipe.kl_warmup_epochs * per_epoch)),
            schedules.ema_decay(t, recipe.ema_decay),
        )

    def _batch_of(self, chosen: Tensor) -> Batch:
        """These rows with their noise, as the next step's objective needs it."""
        recipe, per_epoch = self.recipe, len(self._starts)
        x = self._train[chosen]
        if recipe.binarization == "stochastic":
            x = draw_bits(x, self._bit_noise)
        last = round(recipe.importance_epochs * per_epoch)
        weighted = schedules.is_importance_weighted(self.steps, recipe.epochs * per_epoch, last)
        generator = self._generator
        draws = (recipe.importance_draws, generator.latent_dim) if weighted else (generator.objective_noise_dimensions,)
        noise = torch.randn(len(x), *draws, generator=self._latent_noise, device=self._device)
        return Batch(x, noise, None if self._train_labels is None else self._train_labels[chosen])

    def _take(self, take: Callable[[Batch], None], batch: Batch, wanted: Pause) -> Pause:
        """One step; what all processes want after it."""
        self.steps += 1
        if self._group.size == 1:
            take(batch)
            return wanted
        wishes = torch.tensor([wanted & Pause.SAVE, wanted & Pause.STOP], dtype=torch.float32).to(self._device)
        take(replace(batch, shared=(wishes,)))
        save, stop = wishes.tolist()
        return (Pause.SAVE if save else Pause.NONE) | (Pause.STOP if stop else Pause.NONE)

    def _evaluate(self, epoch: int, objective: float | None) -> Point:
        numbers = self._held_out(epoch) if self._group.first else ()
        elbo, error, iwae = json.loads(self._group.share(json.dumps(numbers).encode()))
        point = Point(epoch, self.steps, objective, elbo, error, iwae)
        self.curve.append(point)
        if point.is_better_than(self.best_point):
            self.best_point = point
            for name, value in self._average.state_dict().items():
                self._best[name].copy_(value)
        return point

    def _held_out(self, epoch: int) -> tuple[float, float, float | None]:
        """The held-out bound of the average weights, its standard error, and the importance-weighted bound or None."""
        recipe = self.recipe
        weighted = schedules.is_importance_weighted(epoch - 1, recipe.epochs, recipe.importance_epochs)
        found = score(
            self._average,
            self._validation,
            VALIDATION_SEED,
            _VALIDATION_PATHS if self._generator.levels else _VALIDATION_SAMPLES,
            recipe.importance_draws if weighted else 0,
            label=self._validation_labels,
        )
        held_out = bounds.summarize(found.elbo.elbo, found.elbo.standard_error)
        iwae = None if found.importance is None else float(found.importance.iwae.mean())
        return held_out.mean, held_out.standard_error, iwae


@contextlib.contextmanager
def _arithmetic(matmul_precision: str) -> Iterator[None]:
    """Torch's settings for the whole process, put back afterwards: bounds are evaluated in the caller's."""
    precision, deterministic = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
    torch.set_float32_matmul_precision(matmul_precision)
    # Convolutions on a GPU may add up gradients in another order at every step, and no run would be another's.
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.deterministic = deterministic


def conditions(generator: Generator, labels: Labels | None, *parts: str) -> list[Array | None]:
    """The labels of each part for a conditional model, None for all others."""
    if not generator.conditional:
        return [None for _ in parts]
    return [getattr(labels, part) for part in parts]
