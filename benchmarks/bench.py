"""What all measurements share: a store with the model, the weights as a file, and servers on free ports."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors

import servers
import workload
from elbod_store import ModelStore
from load import Load, Request, ask, saturate
from peers.model import VAE
from servers import Kind, Place, Server

CONNECTIONS = 32


@dataclass(frozen=True)
class Bench:
    folder: Path
    # Where the peers' virtual environments are.
    environments: Path
    # Of one figure in one round, and how often each is measured.
    seconds: float
    rounds: int
    expected: float

    @classmethod
    def prepare(cls, folder: Path, environments: Path, seconds: float, rounds: int) -> "Bench":
        draft = workload.draft()
        ModelStore.open(folder / "store").publish(draft)
        (folder / "weights.safetensors").write_bytes(draft.weights)
        model = VAE()
        model.load_state_dict(load_tensors(draft.weights))
        with torch.inference_mode():
            expected = model(torch.from_numpy(workload.rows(64, np.float32))).mean().item()
        return cls(folder, environments, seconds, rounds, expected)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @contextmanager
    def serve(self, name: str = "elbod", kind: Kind = servers.ELBOD, workers: int = servers.CORES) -> Iterator[Server]:
        """A server that answers. Raises NotStarted."""
        with self.start(name, kind, workers) as server:
            # Many connections, so that every worker has answered.
            for _ in range(20):
                server.wait_until(kind.request(1))
            yield server

    def start(self, name: str = "elbod", kind: Kind = servers.ELBOD, workers: int = servers.CORES) -> Server:
        """A server that has been started only. Raises NotStarted."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        python = servers.python_of(name, kind, self.environments)
        return Server(name, kind, Place(servers.free_port(), self.store, self.weights, folder, python, workers))

    def saturate(self, server: Server, request: Request, connections: int = CONNECTIONS) -> Load:
        """A warm-up, then what the server does under as many requests as it takes."""
        saturate(server.port, request, connections=connections, seconds=1)
        # The generator left without its last answers; a server that works on them would do so in what is measured.
        ask(server.port, request)
        found = saturate(server.port, request, connections=connections, seconds=self.seconds)
        shown = f"{server.kind.title}: {request.method} {request.path}, {len(request.body):,} bytes"
        sys.stderr.write(f"{shown}: {found.per_second:,.1f} requests/s\n")
        return found

    def check(self, server: Server, request: Request, n: int) -> None:
        """The server scores n rows as plain PyTorch does, but for the noise. Raises NotStarted."""
        status, body = ask(server.port, request)
        if status != 200:
            raise servers.NotStarted(f"status {status} for {n} rows: {body[:120]!r}")
        scores = workload.read_scores(body, request.media_type)
        # One draw moves a row by about 2 nats of 540, the rows differ by as much.
        if scores.shape != (n,) or not np.isfinite(scores).all() or abs(scores.mean() / self.expected - 1) > 0.02:
            raise servers.NotStarted(f"wrong answer for {n} rows: {scores.shape}, mean {scores.mean():.1f}")
