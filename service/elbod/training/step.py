"""One gradient step: objective, backward pass, clipped gradient, optimizer, average of the weights.

Nothing in it waits for the device. Tensors decide whether a step counts, so the same code runs eagerly and as a CUDA
graph (`graphs`).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbod.generators.base import Generator
from elbod.training.errors import Diverged
from elbod.training.parallel import Group
from elbod.training.recipes import Recipe
from elbod.training.state import State, prefixed


@dataclass(frozen=True)
class Batch:
    """What a step reads, on the device.

    x is (n, *event_shape), label (n,) for conditional families. Standard normal noise (n, latent_dim) is for the ELBO,
    (n, K, latent_dim) for the importance-weighted bound of K draws. Processes that train together add up `shared`.
    """

    x: Tensor
    noise: Tensor
    label: Tensor | None = None
    shared: tuple[Tensor, ...] = ()

    @property
    def is_importance_weighted(self) -> bool:
        return self.noise.ndim == 3


class Tally:
    """What the steps came to, on the device, so that no step waits for it.

    A step counts if its objective and its gradient are finite. After `limit` steps in a row that are not, none counts:
    the weights stay as they were, however late somebody reads the numbers.
    """

    def __init__(self, steps: int, limit: int, device: torch.device) -> None:
        """`steps`: at most so many between two calls of `drain`."""
        # A step that does not count writes its objective, too: where the next one writes its own.
        self._objectives = torch.zeros(steps + 1, dtype=torch.float64, device=device)
        self._dtype = torch.float32
        self._numbers = torch.zeros(3, dtype=torch.int64, device=device)
        self._counted, self._skipped, self._in_a_row = self._numbers[:1], self._numbers[1], self._numbers[2]
        self._limit = limit

    def note(self, objective: Tensor, norm: Tensor) -> Tensor:
        """Whether the step counts, a bool (), from its objective and the norm of its gradient."""
        counts = torch.isfinite(objective + norm) & (self._in_a_row < self._limit)
        self._dtype = objective.dtype
        self._objectives.index_copy_(0, self._counted, objective.double().reshape(1))
        self._counted.add_(counts)
        self._skipped.add_(~counts)
        self._in_a_row.add_(1).mul_(~counts)
        return counts

    @property
    def skipped(self) -> int:
        """How many steps did not count. Waits for the device, as do the others."""
        return int(self._skipped) - self.late

    @property
    def in_a_row(self) -> int:
        """How many of them were the last ones, `limit` at most."""
        return min(int(self._in_a_row), self._limit)

    @property
    def late(self) -> int:
        """Steps after `limit` in a row that did not count: as if they had not been taken."""
        return max(0, int(self._in_a_row) - self._limit)

    def drain(self) -> Tensor:
        """The objectives of the steps that counted since the last call, on the CPU. Waits for the device."""
        objectives = self._objectives[: int(self._counted)].to("cpu", self._dtype, copy=True)
        self._counted.zero_()
        return objectives

    def restore(self, skipped: int, in_a_row: int) -> None:
        self._skipped.fill_(skipped)
        self._in_a_row.fill_(in_a_row)

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """No step in here counts, and none is remembered."""
        before = self._numbers.clone()
        self._in_a_row.fill_(self._limit)
        try:
            yield
        finally:
            self._numbers.copy_(before)


class AdamW(torch.optim.AdamW):
    """Where `found_inf` is 1 a step of the fused kernels changes nothing (as `torch.amp.GradScaler` uses it)."""

    found_inf: Tensor | None = None


class Step:
    """Trains `generator` and its exponential moving average, a batch at a time."""

    def __init__(
        self, generator: Generator, average: Generator, recipe: Recipe, group: Group, tally: Tally, device: torch.device
    ) -> None:
        self.tally = tally
        self._generator, self._recipe, self._group = generator, recipe, group
        self._weights: list[Tensor] = list(generator.parameters())
        self._averages: list[Tensor] = list(average.parameters())
        self._trained = [p for p in self._weights if p.requires_grad]
        self._dtypes = {p.dtype for p in self._averages}
        # The fused kernels on a GPU read a learning rate in float32.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self._rate, self._beta, self._blend = torch.zeros(3, dtype=dtype, device=device).unbind()
        self._optimizer = AdamW(
            self._trained, lr=self._rate, weight_decay=recipe.weight_decay, fused=True, capturable=True
        )

    def schedule(self, learning_rate: float, beta: float, ema_decay: float) -> None:
        """What changes from step to step, for the steps that follow."""
        self._rate.fill_(learning_rate)
        self._beta.fill_(beta)
        self._blend.fill_(1 - ema_decay)

    def take(self, batch: Batch) -> None:
        """One gradient step, which changes nothing if the objective or its gradient is not finite."""
        self._optimizer.zero_grad()
        objective, statistics = self._objective(batch)
        (-objective).backward()
        objective = objective.detach()
        gradients = [p.grad for p in self._trained if p.grad is not None]
        self._group.add_up([*gradients, objective, *statistics, *batch.shared])
        norm = nn.utils.get_total_norm(gradients)
        counts = self.tally.note(objective, norm)
        self._generator.update_buffers([each.masked_fill(~counts, 0) for each in statistics])
        nn.utils.clip_grads_with_norm_(self._trained, self._recipe.clip_norm, norm)
        self._optimizer.found_inf = (~counts).float()
        self._optimizer.step()
        blend = {dtype: (self._blend * counts).to(dtype) for dtype in self._dtypes}
        blends: list[Tensor] = [blend[p.dtype] for p in self._averages]
        torch._foreach_lerp_(self._averages, self._weights, blends)

    def _objective(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """This process's part of the mean over a batch's rows, nats a row, and of its statistics: the parts add up.

        log p(x|z) - beta KL(q(z|x) || p(z)), z ~ q(z|x), or log 1/K sum over k of p(x, z_k)/q(z_k|x).
        """
        rows = len(batch.x)
        part = self._group.shard(rows)
        x, label = batch.x[part], None if batch.label is None else batch.label[part]
        statistics: tuple[Tensor, ...] = ()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._recipe.autocast):
            if batch.is_importance_weighted:
                values = self._generator.importance_objective(x, batch.noise[part], label)
            else:
                noise = self._generator.stratified(batch.noise)[part]
                # Families multiply by it, whatever it is.
                values, statistics = self._generator.objective_of_part(x, noise, self._beta, label)
            return values.mean() if self._group.size == 1 else values.sum() / rows, statistics

    def check(self, steps: int) -> None:
        """Wait for the device. Raises Diverged if the last of so many steps were never finite."""
        limit = self._recipe.max_skipped_in_a_row
        if self.tally.in_a_row == limit:
            raise Diverged(
                f"the objective or its gradient was not finite in {limit} steps in a row, up to step "
                f"{steps - self.tally.late}: try a smaller learning_rate (now {self._recipe.learning_rate:g})"
            )

    def state(self) -> dict[str, Tensor]:
        """The optimizer's moments."""
        tensors: dict[str, Tensor] = {}
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= prefixed(f"optimizer/{index}", moments)
        return tensors

    def restore(self, state: State) -> None:
        """Before the first step."""
        for index, p in enumerate(self._trained):
            if moments := state.part(f"optimizer/{index}"):
                self._optimizer.state[p] = {name: value.to(p.device) for name, value in moments.items()}
