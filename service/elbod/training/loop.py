"""The training loop: data in memory, one fused optimizer, one seed for everything.

The training objective is E_q[log p(x|z)] - beta KL(q(z|x) || p(z)) with a beta that may rise from 0 to 1, estimated
with one draw; it goes by the name `objective`. What stops training, chooses weights and is reported is the real
held-out ELBO (`scoring`), of an exponential moving average of the weights, in `eval` mode.

In a recipe's last epochs the objective may be the importance-weighted bound instead. It rises at the ELBO's expense,
so weights are then chosen by the held-out importance-weighted bound, of as many draws.
"""

import contextlib
import copy
import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from elbod.generators import bounds
from elbod.generators.base import Generator
from elbod.training import schedules
from elbod.training.datasets import Array
from elbod.training.errors import CannotResume, Diverged
from elbod.training.parallel import Group
from elbod.training.pauses import NoPauses, Pause, Pauses
from elbod.training.recipes import Recipe
from elbod.training.scoring import score
from elbod.training.splits import Labels, Split
from elbod.training.state import State, fill, prefixed

# Held-out rows keep their noise from one evaluation to the next, so that two of them differ by the weights alone.
VALIDATION_SEED = 1
_VALIDATION_SAMPLES = 4


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
        self.skipped_steps = 0
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
        self._skipped_in_a_row = 0
        self._group = group or Group()
        # Where training is: the epoch, how many of its batches are done, and evaluations without a better bound.
        self._epoch, self._batch, self._waited = 1, 0, 0
        self._objectives: list[Tensor] = []  # since the last evaluation
        self._parameters = [p for p in self._generator.parameters() if p.requires_grad]
        self._optimizer: torch.optim.Optimizer | None = None
        if self._parameters:
            self._optimizer = torch.optim.AdamW(
                self._parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
            )
        self._dropout: Tensor | None = None  # torch's own generator in the middle of an epoch that is resumed
        self._bit_noise = random_generator(seed, "binarization", device)
        self._shuffle = random_generator(seed, "permutation", torch.device("cpu"))
        self._before_permutation = self._shuffle.get_state()
        self._latent_noise = random_generator(seed, "noise", device)

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
        if self._optimizer is None:
            # Families that are fitted in closed form are finished when they are initialized.
            yield self._evaluate(epoch=0, objective=None)
            return
        recipe, pauses = self.recipe, pauses or NoPauses()
        for epoch in range(self._epoch, recipe.epochs + 1):
            self._epoch = epoch
            self._visit(self._optimizer, pauses)
            self._batch = 0
            if epoch != recipe.epochs and all(epoch % period for period in self._evaluation_periods):
                continue
            objectives = self._objectives
            point = self._evaluate(epoch, float(torch.stack(objectives).mean()) if objectives else None)
            self._objectives = []
            self._waited = 0 if point is self.best_point else self._waited + 1
            yield point
            if recipe.patience is not None and self._waited >= recipe.patience:
                return

    def state(self) -> State:
        """All that `restore` needs to go on to the same weights, to be taken between two steps of an epoch.

        Every process of a group has to take it; that of the first one is whole.
        """
        assert self._optimizer is not None
        tensors = {
            f"random/dropout/{rank}": state
            for rank, state in enumerate(self._group.gather(_dropout_state(self._device)))
        }
        if not self._group.first:
            return State({}, {})
        for name, generator in self._generators.items():
            tensors[f"random/{name}"] = generator.get_state()
        tensors["random/permutation"] = self._before_permutation
        if self._objectives:
            tensors["objectives"] = torch.stack(self._objectives).cpu()
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= prefixed(f"optimizer/{index}", moments)
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
                "skipped_in_a_row": self._skipped_in_a_row,
                "seconds": self.seconds,
                "curve": [asdict(point) for point in self.curve],
                "best": best[0] if best else None,
            },
        )

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Go on from there; before `points`. Raises CannotResume if it is the state of another model."""
        if self._optimizer is None:
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
        moments = {
            index: state.part(f"optimizer/{index}")
            for index in range(len(self._parameters))
            if f"optimizer/{index}/step" in state.tensors
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _restore_numbers(self, state: State) -> None:
        plain = state.plain
        self._epoch, self._batch, self._waited = plain["epoch"], plain["batch"], plain["waited"]
        self.steps, self.skipped_steps = plain["steps"], plain["skipped_steps"]
        self._skipped_in_a_row, self.seconds = plain["skipped_in_a_row"], plain["seconds"]
        self.curve = [Point(**point) for point in plain["curve"]]
        self.best_point = None if plain["best"] is None else self.curve[plain["best"]]
        objectives = state.tensors.get("objectives")
        self._objectives = [] if objectives is None else list(objectives.to(self._device).unbind())

    @property
    def _generators(self) -> dict[str, torch.Generator]:
        return {"binarization": self._bit_noise, "noise": self._latent_noise}

    def _visit(self, optimizer: torch.optim.Optimizer, pauses: Pauses) -> None:
        """What is left of this epoch: the rows in a new order, but for a remainder smaller than a batch."""
        started = time.perf_counter()
        rows = len(self._train)
        batch = min(self.recipe.batch_size, rows)
        self._before_permutation = self._shuffle.get_state()
        order = torch.randperm(rows, generator=self._shuffle).to(self._device)
        starts = range(0, rows - batch + 1, batch)
        # Dropout draws from torch's global generator: give it a seed of its own, and leave the caller's alone.
        devices = [self._device] if self._device.type == "cuda" else []
        with _matmul_precision(self.recipe.matmul_precision), torch.random.fork_rng(devices=devices):
            # Processes that train together drop different units.
            part = f"/{self._group.rank}" if self._group.rank else ""
            torch.manual_seed(derive_seed(self._seed, f"dropout/{self._epoch}{part}"))
            if self._dropout is not None:
                _set_dropout_state(self._device, self._dropout)
                self._dropout = None
            for start in starts[self._batch :]:
                chosen = order[start : start + batch]
                label = None if self._train_labels is None else self._train_labels[chosen]
                wanted = pauses.wanted(start == starts[-1])
                pause = self._step(self._train[chosen], label, optimizer, len(starts), wanted)
                self._batch += 1
                if pause:
                    now = time.perf_counter()
                    self.seconds, started = self.seconds + now - started, now
                    pauses.pause(pause, self.state())
        self.seconds += time.perf_counter() - started

    def _step(
        self, x: Tensor, label: Tensor | None, optimizer: torch.optim.Optimizer, per_epoch: int, wanted: Pause
    ) -> Pause:
        """One gradient step, which changes nothing if the objective or its gradient is not finite; what all want."""
        recipe, t, parameters = self.recipe, self.steps, self._parameters
        total = recipe.epochs * per_epoch
        factor = schedules.learning_rate(t, total, round(recipe.warmup_epochs * per_epoch))
        weighted = schedules.is_importance_weighted(t, total, round(recipe.importance_epochs * per_epoch))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        if recipe.binarization == "stochastic":
            x = draw_bits(x, self._bit_noise)
        if weighted:
            objective = self._importance_objective(x, label)
        else:
            objective = self._objective(x, label, schedules.beta(t, round(recipe.kl_warmup_epochs * per_epoch)))
        optimizer.zero_grad()
        (-objective).backward()
        objective = objective.detach()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self._group.size > 1:
            wishes = torch.tensor([wanted & Pause.SAVE, wanted & Pause.STOP], dtype=objective.dtype).to(self._device)
            self._group.add_up([*gradients, objective, wishes])
            save, stop = wishes.tolist()
            wanted = (Pause.SAVE if save else Pause.NONE) | (Pause.STOP if stop else Pause.NONE)
        norm = nn.utils.get_total_norm(gradients)
        self.steps += 1
        # One number, so that a GPU is waited for once.
        if not math.isfinite(float(objective + norm)):
            self.skipped_steps += 1
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= recipe.max_skipped_in_a_row:
                raise Diverged(
                    f"the objective or its gradient was not finite in {self._skipped_in_a_row} steps in a row, "
                    f"up to step {self.steps}: try a smaller learning_rate (now {recipe.learning_rate:g})"
                )
            return wanted
        self._skipped_in_a_row = 0
        nn.utils.clip_grads_with_norm_(parameters, recipe.clip_norm, norm)
        optimizer.step()
        weight = 1 - schedules.ema_decay(t, recipe.ema_decay)
        averages: list[Tensor] = list(self._average.parameters())
        torch._foreach_lerp_(averages, list(self._generator.parameters()), weight)
        self._objectives.append(objective)
        return wanted

    def _objective(self, x: Tensor, label: Tensor | None, beta: float) -> Tensor:
        """mean over rows of log p(x|z) - beta KL(q(z|x) || p(z)), z ~ q(z|x), nats a row."""
        part = self._group.shard(len(x))
        noise = self._noise(len(x))[part]
        with self._autocast(x):
            return self._mean(self._generator.objective(x[part], noise, beta, _at(label, part)), len(x))

    def _importance_objective(self, x: Tensor, label: Tensor | None) -> Tensor:
        """mean over rows of log 1/K sum over k of p(x, z_k)/q(z_k|x), nats a row."""
        part = self._group.shard(len(x))
        noise = self._noise(len(x), self.recipe.importance_draws)[part]
        with self._autocast(x):
            return self._mean(self._generator.importance_objective(x[part], noise, _at(label, part)), len(x))

    def _mean(self, values: Tensor, rows: int) -> Tensor:
        """This process's part of the mean over a whole batch: the parts of all add up to it."""
        return values.mean() if self._group.size == 1 else values.sum() / rows

    def _noise(self, *shape: int) -> Tensor:
        dimensions = self._generator.objective_noise_dimensions
        return torch.randn(*shape, dimensions, generator=self._latent_noise, device=self._device)

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.autocast)

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
            _VALIDATION_SAMPLES,
            recipe.importance_draws if weighted else 0,
            label=self._validation_labels,
        )
        held_out = bounds.summarize(found.elbo.elbo, found.elbo.standard_error)
        iwae = None if found.importance is None else float(found.importance.iwae.mean())
        return held_out.mean, held_out.standard_error, iwae


def _at(labels: Tensor | None, part: slice) -> Tensor | None:
    return None if labels is None else labels[part]


def _dropout_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_dropout_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextlib.contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """Torch's setting for the whole process, put back afterwards: bounds are evaluated in the caller's."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def conditions(generator: Generator, labels: Labels | None, *parts: str) -> list[Array | None]:
    """The labels of each part for a conditional model, None for all others."""
    if not generator.conditional:
        return [None for _ in parts]
    return [getattr(labels, part) for part in parts]


def draw_bits(x: Tensor, generator: torch.Generator) -> Tensor:
    """b ~ Bernoulli(x/255) of bytes, exactly, or b ~ Bernoulli(x) of floats in [0, 1]."""
    if x.dtype == torch.uint8:
        # u uniform on 0 ... 254: P(u < x) = x/255, without a float.
        return (torch.empty_like(x).random_(0, 255, generator=generator) < x).to(torch.uint8)
    return torch.bernoulli(x, generator=generator)


def derive_seed(seed: int, purpose: str) -> int:
    """One seed for each purpose of a run, so that no two of them share their numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]) >> 1


def random_generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose))
