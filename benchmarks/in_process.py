"""elbod's engine without a server, next to the bare networks: in bulk, one request alone, thirteen in a tile.

    python in_process.py STORE MODEL

is a process that reads lines `WAY SECONDS` and answers each with a line of JSON. For rates there is one a core.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import servers
import workload
from bench import Bench
from elbod_engine import LoadedEngine
from elbod_store import ModelStore
from load import RawConnection, Request
from peers.model import LATENT, VAE
from report import Section, interleave, ratios, shown
from servers import NotStarted, Server

# Rows of a served request, of a bulk job (several of those, so that the engine always has the next), of a family's job.
ROWS, BULK_ROWS, FAMILY_ROWS = 1_024, 4_096, 512
# Of each worker: one request runs, one waits. More would all end at once, since jobs share an engine in equal parts.
CONNECTIONS = 2 * servers.CORES
# Tiles of the bare networks: one that suits a core's cache and the engine's largest. The faster one counts.
TILE = 32
TOGETHER = 13
FAMILIES = {
    "ladder": "fashion-mnist-binary-ladder",
    "convolutional": "fashion-mnist-binary-conv",
    "8-bit": "fashion-mnist-8bit",
}


@dataclass(frozen=True)
class Took:
    """What a process did of one way: rows a second, and the median seconds of one step."""

    rate: float
    step: float


@dataclass(frozen=True)
class Processes:
    """A process a core, each with an engine and the same model."""

    started: list["subprocess.Popen[str]"]
    tiles: tuple[int, ...]

    @classmethod
    @contextmanager
    def start(cls, store: Path, model: str) -> Iterator["Processes"]:
        command = [sys.executable, __file__, str(store), model]
        with ExitStack() as stack:
            started = []
            for _ in range(servers.CORES):
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                stack.callback(process.wait)
                stack.callback(process.terminate)
                started.append(process)
            tiles = [_answer(process) for process in started]
            yield cls(started, tuple(map(int, tiles[0])))

    def rate(self, way: str, seconds: float) -> float:
        """Rows a second of all processes at once."""
        return sum(took.rate for took in self._run(self.started, way, seconds))

    def seconds(self, way: str, seconds: float) -> float:
        """Of one step in one process, while the others wait."""
        return self._run(self.started[:1], way, seconds)[0].step

    @staticmethod
    def _run(processes: list["subprocess.Popen[str]"], way: str, seconds: float) -> list[Took]:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{way} {seconds}\n")
            process.stdin.flush()
        return [Took(*_answer(process)) for process in processes]

    def bulk(self, seconds: float) -> dict[str, Callable[[], float]]:
        """The engine and, at both tiles, the bare networks."""
        tiles = sorted({TILE, self.tiles[-1]})
        ways = {f"bare {tile}": partial(self.rate, f"bare:{tile}", seconds) for tile in tiles}
        return {**ways, "engine": partial(self.rate, "bulk", seconds)}


def _answer(process: "subprocess.Popen[str]") -> list[float]:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise NotStarted("a process of the engine ended early")
    found: list[float] = json.loads(line)
    return found


def measure_bulk(bench: Bench) -> Section:
    section = Section(f"Bulk: {ROWS:,}-row binary /elbo, {bench.rounds} rounds", ("", "rows/s"))
    requests = {f"served, {dtype}": workload.as_safetensors(ROWS, dtype) for dtype in ("float32", "uint8")}
    with Processes.start(bench.store, workload.NAME) as processes, bench.serve() as server:
        ways = processes.bulk(bench.seconds)
        for name, request in requests.items():
            bench.check(server, request, ROWS)
            ways[name] = partial(_served, bench, server, request)
        found = interleave(bench.rounds, ways)
    section.rows += [(name, shown(rates)) for name, rates in found.items()]
    section.notes.append(
        f"bare: encoder and decoder in float32 on tiles of so many rows, no noise and no densities. Without a server: "
        f"{servers.CORES} processes of one thread; with: {CONNECTIONS} connections."
    )
    section.add("bulk in process / bare networks", ratios(found["engine"], faster_bare(found), 100), 85, unit="%")
    section.add("served bulk / in process", ratios(found["served, float32"], found["engine"], 100), 92, unit="%")
    return section


def measure_alone(bench: Bench) -> Section:
    section = Section(f"One row a request, {bench.rounds} rounds", ("", "microseconds, median"))
    seconds = bench.seconds / 2
    with Processes.start(bench.store, workload.NAME) as processes, bench.serve() as server:
        least, tile = processes.tiles[0], min(size for size in processes.tiles if size >= TOGETHER)
        ways = {
            "bare networks, one row": partial(processes.seconds, "bare:1", seconds),
            f"bare networks, the smallest tile, {least}": partial(processes.seconds, f"bare:{least}", seconds),
            "engine, one request alone": partial(processes.seconds, "alone", seconds),
            "over HTTP, JSON, one connection": partial(_http_seconds, server, seconds),
            f"bare networks, a tile of {tile}": partial(processes.seconds, f"bare:{tile}", seconds),
            f"engine, {TOGETHER} requests together": partial(processes.seconds, "together", seconds),
        }
        found = interleave(bench.rounds, ways)
    section.rows += [(name, shown([1e6 * value for value in values])) for name, values in found.items()]
    row, bare, alone, http, full, together = found.values()
    overhead = [1e6 * (a - b) / TOGETHER for a, b in zip(together, full, strict=True)]
    section.add("one request alone, in process / bare networks, smallest tile", ratios(alone, bare), 1.8, at_most=True)
    section.add("one request alone, in process / bare networks, one row", ratios(alone, row), None)
    section.add("one request alone, over HTTP / bare networks, smallest tile", ratios(http, bare), None)
    section.add(f"engine overhead a request, {TOGETHER} in a tile", overhead, 50, at_most=True, unit="us")
    return section


def measure_families(bench: Bench) -> Section:
    """Untrained models of the recipes' sizes, whose networks take longer than the benchmark's."""
    section = Section(f"Other families: bulk, rows/s, {bench.rounds} rounds", ("", "way", "rows/s"))
    store = ModelStore.open(bench.store)
    for title, recipe in FAMILIES.items():
        store.publish(workload.as_draft(recipe, workload.untrained(workload.recipe_blueprint(recipe))))
        with Processes.start(bench.store, recipe) as processes:
            scored = partial(processes.rate, f"scored:{TILE}", bench.seconds / 2)
            found = interleave(bench.rounds, processes.bulk(bench.seconds / 2) | {f"scored {TILE}": scored})
        section.rows += [(title, name, shown(rates)) for name, rates in found.items()]
        section.add(f"{title}: engine / bare", ratios(found["engine"], faster_bare(found), 100), 90, unit="%")
    section.notes.append(
        "bare: the family's encoder and draw on tiles of so many rows at noise 0; scored: with log p(x|z) in float32."
    )
    return section


def _served(bench: Bench, server: Server, request: Request) -> float:
    return bench.saturate(server, request, CONNECTIONS).per_second * ROWS


def faster_bare(found: dict[str, list[float]]) -> list[float]:
    """The rates of the bare networks at the tile that they run faster in."""
    return max((rates for name, rates in found.items() if name.startswith("bare")), key=median)


def _http_seconds(server: Server, seconds: float) -> float:
    """The median of requests that follow each other on one connection."""
    raw, found, since = workload.as_json(1).raw, [], time.perf_counter()
    with RawConnection(server.port) as connection:
        while (sent := time.perf_counter()) - since < seconds:
            status, _ = connection.ask(raw)
            assert status == 200, f"a request of one row got status {status}"
            found.append(time.perf_counter() - sent)
    return median(found)


def main(store: str, model: str) -> None:
    torch.set_num_threads(1)
    with LoadedEngine.open(store, model) as engine:
        _say(engine.tiles)
        for line in sys.stdin:
            way, seconds = line.split()
            _say(_measure(_step(engine, model, way), float(seconds)))


def _measure(step: Callable[[], int], seconds: float) -> tuple[float, float]:
    step()
    found, rows, since = [], 0, time.perf_counter()
    while (began := time.perf_counter()) - since < seconds:
        rows += step()
        found.append(time.perf_counter() - began)
    return rows / (time.perf_counter() - since), median(found)


def _step(engine: LoadedEngine, model: str, way: str) -> Callable[[], int]:
    """What does one step of the way and returns how many rows that were."""
    name, _, tile = way.partition(":")
    if tile:
        networks = _networks(engine, model, name)
        tiles = cycle(torch.from_numpy(engine.random_rows(ROWS)).split(int(tile)))
        return lambda: _count(networks, next(tiles))
    jobs: dict[str, tuple[Callable[[Any], object], int]] = {
        "alone": (engine.alone, 1),
        "together": (engine.together, TOGETHER),
        "bulk": (engine.elbo, BULK_ROWS if model == workload.NAME else FAMILY_ROWS),
        # Rows of models with levels, whose draws take a pass each.
        "paths": (engine.elbo, engine.tiles[-1]),
    }
    run, rows = jobs[name]
    x = engine.random_rows(rows)
    return lambda: _count(run, x)


def _networks(engine: LoadedEngine, model: str, name: str) -> Callable[[Tensor], object]:
    if name == "passes":
        return engine.passes
    return plain_networks(engine) if model == workload.NAME else partial(engine.networks, likelihood=name == "scored")


def _count(run: Callable[[Any], object], x: Any) -> int:
    run(x)
    return len(x)


def plain_networks(engine: LoadedEngine) -> Callable[[Tensor], Tensor]:
    """The encoder and, at its mean, the decoder of the benchmark's model in plain PyTorch."""
    model = VAE()
    model.load_state_dict(engine.weights())
    model = model.to(engine.device).requires_grad_(False)

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            decoded: Tensor = model.decoder(model.encoder(x)[:, :LATENT])
            return decoded

    return run


def _say(found: Sequence[float]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
