"""elbod's engine in this process: the only file here that knows its Python interface."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import workload
from elbod.engine.bulk import Bulk, open_bulk
from elbod.engine.jobs import Job, Verb, marginal_labels
from elbod.engine.loading import Resident, load
from elbod.engine.runner import Runner
from elbod_store import ModelStore

__all__ = ["LoadedEngine", "Verb"]


@dataclass(frozen=True)
class LoadedEngine:
    """One engine with one loaded model."""

    model: Resident
    _bulk: Bulk

    @classmethod
    @contextmanager
    def open(cls, store: str | Path, name: str, device: str = "cpu") -> Iterator["LoadedEngine"]:
        runner, opened = Runner.reproducible(device), ModelStore.open(store)
        model = load(opened, opened.resolve(name), runner)
        with open_bulk(runner, 1) as bulk:
            yield cls(model, bulk)

    @property
    def tiles(self) -> tuple[int, ...]:
        """The tile sizes that the self-test proved, ascending."""
        return self.model.sizes

    @property
    def reproducible(self) -> bool:
        """Whether the self-test proved that company changes no byte."""
        return self.model.reproducible

    @property
    def device(self) -> torch.device:
        return next(self.model.generator.parameters()).device

    def weights(self) -> dict[str, Tensor]:
        return self.model.generator.state_dict()

    def random_rows(self, n: int) -> np.ndarray:
        """Rows of the model's shape and support, float32."""
        config = self.model.generator.blueprint
        return workload.random_rows(n, config.event_shape, config.levels or 2, np.float32)

    def elbo(self, x: np.ndarray, num_importance_samples: int = 0) -> dict[str, np.ndarray]:
        """The columns of a bulk job, S = 1."""
        return self._bulk.run(self._job(x, num_importance_samples), self.model, lambda rows: None)

    def together(self, x: np.ndarray) -> None:
        """One job a row, all queued before the first tile; returns when all are answered."""
        (engine,) = self._bulk.engines
        answered = threading.Semaphore(0)

        def deliver(outcomes: Any) -> None:
            answered.release(len(outcomes))

        for row in range(len(x)):
            engine.admit(self._job(x[row : row + 1]), self.model, deliver)
        engine.wake()
        for _ in x:
            answered.acquire()

    def alone(self, x: np.ndarray) -> None:
        """One job, from its array to its answer."""
        self._bulk.engines[0].submit(self._job(x), self.model).result()

    def networks(self, x: Tensor, likelihood: bool = False) -> None:
        """The family's own encoder and draw of a tile at noise 0; with the likelihood also log p(x|z), in float32."""
        generator = self.model.generator
        with torch.inference_mode():
            noise = torch.zeros(len(x), generator.latent_dim, device=x.device)
            drawn = generator.draw(generator.encode(x), noise)
            if likelihood:
                drawn.observation.log_prob(x).flatten(1).sum(-1)

    def _job(self, x: np.ndarray, num_importance_samples: int = 0) -> Job:
        marginal = marginal_labels(self.model.generator, None)
        return Job(
            verb=Verb.ELBO,
            rows=len(x),
            seed=0,
            x=x,
            marginal_labels=marginal,
            num_importance_samples=num_importance_samples,
        )
