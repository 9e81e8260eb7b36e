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
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbod.generators import bounds
from elbod.generators.base import Generator
from elbod.training import schedules
from elbod.training.datasets import Array
from elbod.training.errors import Diverged
from elbod.training.recipes import Recipe
from elbod.training.scoring import score
from elbod.training.splits import Labels, Split

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
    ) -> None:
        """`also_every` adds evaluations after every so many epochs to those of the recipe."""
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
        self._bit_noise = random_generator(seed, "binarization", device)
        self._shuffle = random_generator(seed, "permutation", torch.device("cpu"))
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

    def points(self) -> Iterator[Point]:
        """Train, yielding after every evaluation, until the epochs or the patience run out. Raises Diverged."""
        parameters = [p for p in self._generator.parameters() if p.requires_grad]
        if not parameters:
            # Families that are fitted in closed form are finished when they are initialized.
            yield self._evaluate(epoch=0, objective=None)
            return
        recipe = self.recipe
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        objectives: list[Tensor] = []
        waited = 0
        for epoch in range(1, recipe.epochs + 1):
            objectives += self._epoch(epoch, parameters, optimizer)
            if epoch != recipe.epochs and all(epoch % period for period in self._evaluation_periods):
                continue
            point = self._evaluate(epoch, float(torch.stack(objectives).mean()) if objectives else None)
            objectives.clear()
            waited = 0 if point is self.best_point else waited + 1
            yield point
            if recipe.patience is not None and waited >= recipe.patience:
                return

    def _epoch(self, epoch: int, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """Visit the training rows once, in a new order, but for a remainder smaller than a batch; the objectives."""
        started = time.perf_counter()
        rows = len(self._train)
        batch = min(self.recipe.batch_size, rows)
        order = torch.randperm(rows, generator=self._shuffle).to(self._device)
        objectives = []
        # Dropout draws from torch's global generator: give it a seed of its own, and leave the caller's alone.
        devices = [self._device] if self._device.type == "cuda" else []
        with _matmul_precision(self.recipe.matmul_precision), torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(self._seed, f"dropout/{epoch}"))
            for start in range(0, rows - batch + 1, batch):
                chosen = order[start : start + batch]
                label = None if self._train_labels is None else self._train_labels[chosen]
                objectives.append(self._step(self._train[chosen], label, parameters, optimizer, rows // batch))
        self.seconds += time.perf_counter() - started
        return [objective for objective in objectives if objective is not None]

    def _step(
        self,
        x: Tensor,
        label: Tensor | None,
        parameters: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        per_epoch: int,
    ) -> Tensor | None:
        """One gradient step; the objective, or None if it or its gradient was not finite and nothing was changed."""
        recipe, t = self.recipe, self.steps
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
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.steps += 1
        # One number, so that a GPU is waited for once.
        if not math.isfinite(float(objective.detach() + norm)):
            self.skipped_steps += 1
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= recipe.max_skipped_in_a_row:
                raise Diverged(
                    f"the objective or its gradient was not finite in {self._skipped_in_a_row} steps in a row, "
                    f"up to step {self.steps}: try a smaller learning_rate (now {recipe.learning_rate:g})"
                )
            return None
        self._skipped_in_a_row = 0
        nn.utils.clip_grads_with_norm_(parameters, recipe.clip_norm, norm)
        optimizer.step()
        weight = 1 - schedules.ema_decay(t, recipe.ema_decay)
        averages: list[Tensor] = list(self._average.parameters())
        torch._foreach_lerp_(averages, list(self._generator.parameters()), weight)
        return objective.detach()

    def _objective(self, x: Tensor, label: Tensor | None, beta: float) -> Tensor:
        """mean over rows of log p(x|z) - beta KL(q(z|x) || p(z)), z ~ q(z|x), nats a row."""
        noise = self._noise(len(x))
        with self._autocast(x):
            return self._generator.objective(x, noise, beta, label).mean()

    def _importance_objective(self, x: Tensor, label: Tensor | None) -> Tensor:
        """mean over rows of log 1/K sum over k of p(x, z_k)/q(z_k|x), nats a row."""
        noise = self._noise(len(x), self.recipe.importance_draws)
        with self._autocast(x):
            return self._generator.importance_objective(x, noise, label).mean()

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, self._generator.latent_dim, generator=self._latent_noise, device=self._device)

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.autocast)

    def _evaluate(self, epoch: int, objective: float | None) -> Point:
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
        point = Point(epoch, self.steps, objective, held_out.mean, held_out.standard_error, iwae)
        self.curve.append(point)
        if point.is_better_than(self.best_point):
            self.best_point = point
            for name, value in self._average.state_dict().items():
                self._best[name].copy_(value)
        return point


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
