"""elbod's engine in this process: the only file here that knows its Python interface."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import workload
from elbod.engine.admission import Admission, Limits
from elbod.engine.backends import open_backend
from elbod.engine.bulk import Bulk, open_bulk
from elbod.engine.engine import Engine
from elbod.engine.jobs import Job, Verb
from elbod.engine.loading import Resident, load
from elbod.engine.progress import Progress
from elbod.engine.settling import quiet
from elbod_store import ModelStore

__all__ = ["LoadedEngine", "Verb"]


@dataclass(frozen=True)
class LoadedEngine:
    """One loaded model, an engine on a thread for bulk work, and one on this thread, as on a server's event loop."""

    model: Resident
    _bulk: Bulk
    _inline: Engine

    @classmethod
    @contextmanager
    def open(cls, store: str | Path, name: str, device: str = "cpu") -> Iterator["LoadedEngine"]:
        backend, opened = open_backend(device), ModelStore.open(store)
        model = load(opened, opened.resolve(name), backend)
        with open_bulk(backend, 1) as bulk:
            yield cls(model, bulk, Engine(backend, Admission(Limits())))

    @property
    def tiles(self) -> tuple[int, ...]:
        """The tile sizes that the self-test proved, ascending."""
        return self.model.sizes

    @property
    def reproducible(self) -> bool:
        """Whether the self-test proved that company changes no byte."""
        return self.model.description.reproducible

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
        for row in range(len(x)):
            progress = Progress(self._job(x[row : row + 1]), self.model, lambda outcomes: None)
            self._inline.admission.admit(progress)
            self._inline.add(progress)
        with quiet():
            while self._inline.step():
                pass

    def alone(self, x: np.ndarray) -> None:
        """One job, from its array to its answer."""
        self.together(x)

    def networks(self, x: Tensor, likelihood: bool = False) -> None:
        """The family's own encoder and draw of a tile at noise 0; with the likelihood also log p(x|z), in float32."""
        generator = self.model.generator
        with torch.inference_mode():
            noise = torch.zeros(len(x), generator.latent_dim, device=x.device)
            walk, _ = generator.begin(generator.encode(x), noise)
            observation = generator.observe(walk)
            if likelihood:
                observation.log_likelihood(x)

    def passes(self, x: Tensor) -> None:
        """The bare network of a family with levels, once on a tile."""
        with torch.inference_mode():
            self.model.generator.network(x.flatten(1).float(), torch.full((len(x),), 0.5))

    def _job(self, x: np.ndarray, num_importance_samples: int = 0) -> Job:
        return Job(verb=Verb.ELBO, rows=len(x), seed=0, x=x, num_importance_samples=num_importance_samples)
