"""elbod on one GPU next to the bare networks, and training on it next to the CPU; every ratio next to its target.

    python benchmarks/gpu.py [--device cuda] [--quick] [--only NAME ...]

`--device cpu --quick` is a rehearsal in two minutes, with fewer rows and draws and without CUDA graphs.
"""

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import servers
import workload
from bench import CONNECTIONS, Bench
from elbod.generators import checkpoint
from elbod.training import recipes
from elbod.training.loop import Loop
from elbod.training.splits import Split
from elbod_engine import LoadedEngine
from elbod_store import ModelStore
from in_process import FAMILIES, plain_networks
from load import Request, generator
from report import Section, Target, interleave, number, ratios, shown, target_table
from servers import EMPTY, Kind
from serving import processor, say

IMPORTANCE_RECIPE = "fashion-mnist-binary"
TRAINED = {"convolutional": "fashion-mnist-binary-conv", "ladder": "fashion-mnist-binary-ladder"}
# Steps of 64 rows in an epoch of both recipes.
EPOCH_STEPS = 781
# After so many seconds the importance-weighted bound of the rows so far is scaled up.
PATIENCE = 90.0


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    seconds: float
    bulk_rows: int
    request_rows: int
    importance_rows: int
    importance_draws: int
    steps: int
    cpu_steps: int


FULL = Scale(3, 3.0, 65_536, 8_192, 10_000, 5_000, 100, 20)
QUICK = Scale(3, 1.0, 4_096, 1_024, 32, 500, 10, 5)


@dataclass(frozen=True)
class Gpu:
    """One run on one device."""

    bench: Bench
    scale: Scale
    device: str

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def measure_self_tests(self) -> Section:
        section = Section("Self-test", ("model", "tiles", "same bytes in any company"))
        proved = []
        for name in (workload.NAME, IMPORTANCE_RECIPE, *FAMILIES.values()):
            with self._open(name) as engine:
                tiles = ", ".join(map(str, engine.tiles))
                section.rows.append((name, tiles, "yes" if engine.reproducible else "no"))
                proved.append(engine.reproducible)
        section.add("models that pass the self-test", sum(proved), len(proved), unit="")
        return section

    def measure_bulk(self) -> Section:
        section = Section(f"Bulk /elbo, S = 1, {self.scale.rounds} rounds", ("", "rows/s"))
        rows = self.scale.request_rows
        request = workload.as_safetensors(rows, np.uint8)
        with (
            self._open(workload.NAME) as engine,
            self.bench.serve("elbod", self._elbod(), workers=1) as server,
            self.bench.serve("empty", EMPTY, workers=1) as empty,
        ):
            self.bench.check(server, request, rows)
            x, bare = engine.random_rows(self.scale.bulk_rows), self._bare(engine)
            how = "a CUDA graph" if self.cuda else "no CUDA graph on this device"
            names = (f"bare networks, tile of {engine.tiles[-1]}, {how}", "engine", "served, uint8", "wire alone")
            wire = Request("/body", request.body, request.media_type)
            ways: tuple[Callable[[], float], ...] = (
                bare,
                lambda: self._rate(lambda: engine.elbo(x), len(x)),
                lambda: self.bench.saturate(server, request, 4).per_second * rows,
                lambda: self.bench.saturate(empty, wire, 4).per_second * rows,
            )
            found = interleave(self.scale.rounds, dict(zip(names, ways, strict=True)))
        section.rows += [(name, shown(rates)) for name, rates in found.items()]
        forward, own, served, limit = found.values()
        section.notes.append(
            f"served: one worker, requests of {rows:,} rows, 4 connections. wire alone: a FastAPI route that takes the "
            f"same bodies and ignores them, {shown([rate * workload.X_DIM / 1e6 for rate in limit])} MB/s."
        )
        section.add("bulk in process / bare networks", ratios(own, forward, 100), 70, unit="%")
        section.add("served bulk binary / in process", ratios(served, own, 100), 80, unit="%")
        section.add("served bulk binary / wire alone", ratios(served, limit, 100), None, unit="%")
        return section

    def measure_importance(self) -> Section:
        rows, draws = self.scale.importance_rows, self.scale.importance_draws
        section = Section("Importance-weighted bound, Fashion-MNIST VAE", ("rows", "K", "seconds"))
        with self._open(IMPORTANCE_RECIPE) as engine:
            x = engine.random_rows(rows)
            # As many rows as keep the engine busy, and few enough to stop between them.
            block = max(1, rows // 20)
            engine.elbo(x[:block], min(draws, 64))
            since, done = time.perf_counter(), 0
            while done < rows and time.perf_counter() - since < PATIENCE:
                engine.elbo(x[done : done + block], draws)
                done = min(rows, done + block)
            seconds = (time.perf_counter() - since) * rows / done
        section.rows.append((number(rows), number(draws), number(seconds)))
        if done < rows:
            section.notes.append(f"Scaled up from the first {done:,} rows.")
        whole = (rows, draws) == (FULL.importance_rows, FULL.importance_draws)
        what = f"importance-weighted bound, {rows:,} rows x K = {draws:,}"
        section.add(what, seconds, 30 if whole else None, at_most=True, unit="s")
        return section

    def measure_one_row(self) -> Section:
        section = Section(
            f"One-row JSON, {CONNECTIONS} connections, {generator()}", ("requests/s", "p50, ms", "p99, ms")
        )
        with self.bench.serve("elbod", self._elbod(), workers=1) as server:
            loads = [self.bench.saturate(server, workload.as_json(1)) for _ in range(self.scale.rounds)]
        p50, p99 = ([1e3 * getattr(load, name) for load in loads] for name in ("median", "p99"))
        section.rows.append((shown([load.per_second for load in loads]), shown(p50), shown(p99)))
        section.add("one-row JSON, p50", p50, 6, at_most=True, unit="ms")
        return section

    def measure_training(self) -> Section:
        columns = ("Fashion-MNIST", "eager steps/s", "captured steps/s", "seconds an epoch", "on the CPU")
        section = Section(f"Training on random rows, {self.scale.rounds} rounds", columns)
        for title, name in TRAINED.items():
            ways = {"eager": training(name, self.device, self.scale.steps, captures=False)}
            if self.cuda:
                ways["captured"] = training(name, self.device, self.scale.steps, captures=True)
            found = interleave(self.scale.rounds, ways)
            eager, captured = found["eager"], found.get("captured", [])
            cpu = [training(name, "cpu", self.scale.cpu_steps, captures=False)()] if self.cuda else eager
            gpu = captured or eager
            epochs = [shown([EPOCH_STEPS / rate for rate in rates]) for rates in (gpu, cpu)]
            section.rows.append((title, shown(eager), shown(captured), *epochs))
            what = f"training, {title}: captured step / eager"
            missing = "" if captured else "needs CUDA"
            section.targets.append(Target(what, ratios(captured, eager), 2, missing=missing))
            if self.cuda:
                what = f"training, {title}: an epoch on the CPU / on the GPU"
                section.add(what, [rate / cpu[0] for rate in gpu], None)
        return section

    def _open(self, name: str) -> AbstractContextManager[LoadedEngine]:
        """An engine with the benchmark's model, or an untrained one of a recipe."""
        store = ModelStore.open(self.bench.store)
        if name != workload.NAME:
            store.publish(workload.as_draft(name, workload.untrained(workload.recipe_blueprint(name))))
        return LoadedEngine.open(self.bench.store, name, self.device)

    def _elbod(self) -> Kind:
        return replace(servers.ELBOD, command=lambda place: [*servers.ELBOD.command(place), "--device", self.device])

    def _bare(self, engine: LoadedEngine) -> Callable[[], float]:
        """Rows a second of the bare encoder and decoder at the engine's largest tile, data on the device."""
        tile, networks = engine.tiles[-1], plain_networks(engine)
        x = torch.from_numpy(engine.random_rows(tile)).to(engine.device)
        run: Callable[[], object] = captured(lambda: networks(x)) if self.cuda else lambda: networks(x)
        return lambda: self._rate(run, tile)

    def _rate(self, run: Callable[[], object], rows: int) -> float:
        """Rows a second; waits for the device every tenth of a second, so that the queue of kernels never empties."""
        run()
        self._synchronize()
        since, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - since) < self.scale.seconds:
            block = time.perf_counter()
            while time.perf_counter() - block < 0.1:
                run()
                count += 1
            self._synchronize()
        self._synchronize()
        return rows * count / max(elapsed, time.perf_counter() - since)

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """A CUDA graph of it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def training(name: str, device: str, steps: int, *, captures: bool) -> Callable[[], float]:
    """The trainer's loop on random rows, warmed up by an epoch: steps a second of its next epoch, evaluations aside."""
    recipe = replace(recipes.recipe(name), epochs=1_000, evaluate_every=1)
    torch.set_num_threads(recipe.threads)
    grey = workload.random_rows(steps * recipe.batch_size, (28, 28), 256)
    bits = workload.random_rows(2, (28, 28))
    model = checkpoint.build(workload.recipe_blueprint(name))
    model.initialize(torch.from_numpy(grey) / 255)
    loop = Loop(model, Split(grey, bits, bits, bits), recipe, 0, torch.device(device))
    loop.captures = captures
    points = loop.points()
    next(points)

    def rate() -> float:
        before, seconds = loop.steps, loop.seconds
        next(points)
        return (loop.steps - before) / (loop.seconds - seconds)

    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer rows, draws and steps")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="self-test, bulk, importance, one-row, training")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; a rehearsal: python benchmarks/gpu.py --device cpu --quick")
    scale = QUICK if arguments.quick else FULL
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.prepare(Path(folder), Path(folder), scale.seconds, scale.rounds)
        run = Gpu(bench, scale, arguments.device)
        measurements: dict[str, Callable[[], Section]] = {
            "self-test": run.measure_self_tests,
            "bulk": run.measure_bulk,
            "importance": run.measure_importance,
            "one-row": run.measure_one_row,
            "training": run.measure_training,
        }
        if unknown := sorted(set(arguments.only or []) - set(measurements)):
            parser.error(f"no measurement {unknown[0]!r}: known are {', '.join(measurements)}")
        name = torch.cuda.get_device_name() if run.cuda else "no GPU: a rehearsal"
        versions = servers.versions(Path(sys.executable), ["torch", "numpy", "elbod"])
        say(f"{datetime.date.today()}, {name}; {processor()}, Python {platform.python_version()}; {versions}\n")
        sections = []
        for what, measure in measurements.items():
            if not arguments.only or what in arguments.only:
                sections.append(measure())
                say("\n".join(sections[-1].lines()) + "\n")
    say("\n".join(["", "### Targets", "", *target_table(sections)]) + "\n")
    say(f"\n{time.monotonic() - started:.0f} s; load average at the end {os.getloadavg()[0]:.1f}.\n")


if __name__ == "__main__":
    main()
