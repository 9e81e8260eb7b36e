"""Rows a second without a server, in one process a core: elbod's engine, and the bare forward of the networks.

    python in_process.py engine|forward STORE WEIGHTS SECONDS

prints `ready`, waits for a line, and prints rows and seconds.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import servers
import workload
from bench import Bench
from report import Section, both, mean
from servers import NotStarted

ROWS, TILE = 1_024, 32
# Of each worker: one request runs, one waits. More would all end at once, since jobs share an engine in equal parts.
CONNECTIONS = 2 * servers.CORES
FORWARD, ENGINE, SERVER, BYTES = "bare forward", "elbod.engine", "elbod, float32", "elbod, uint8"


def measure(bench: Bench) -> Section:
    found: dict[str, list[float]] = {name: [] for name in (FORWARD, ENGINE, SERVER, BYTES)}
    for names in (list(found), list(found)[::-1]):
        for name in names:
            found[name].append(_rows_per_second(bench, name))
    section = Section(f"Bulk: {ROWS:,}-row binary /elbo, two rounds", ("", "rows/s", "of the bare forward"))
    rates = {name: mean(values) for name, values in found.items()}
    for name, values in found.items():
        section.rows.append((name, both(values), f"{100 * rates[name] / rates[FORWARD]:.0f} %"))
    section.notes.append(
        f"Without a server: {servers.CORES} processes of one thread, tiles of {TILE}; with: {CONNECTIONS} connections."
    )
    section.add("served / the engine in process", 100 * rates[SERVER] / rates[ENGINE], 90, unit="%")
    section.add("the engine in process / bare forward", 100 * rates[ENGINE] / rates[FORWARD], 80, unit="%")
    return section


def _rows_per_second(bench: Bench, name: str) -> float:
    if name in (FORWARD, ENGINE):
        return _in_processes(bench, name.split(".")[-1].split()[-1])
    request = workload.as_safetensors(ROWS, np.float32 if name == SERVER else np.uint8)
    with bench.serve() as server:
        bench.check(server, request, ROWS)
        return bench.saturate(server, request, CONNECTIONS).per_second * ROWS


def _in_processes(bench: Bench, what: str) -> float:
    command = [sys.executable, __file__, what, str(bench.store), str(bench.weights), str(bench.seconds)]
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(servers.CORES)
        ]
        for process in started:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise NotStarted(f"{what} did not start")
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        total = 0.0
        for process in started:
            assert process.stdout is not None
            rows, seconds = map(float, process.stdout.readline().split())
            total += rows / seconds
        return total


def main(what: str, store: str, weights: str, seconds: str) -> None:
    torch.set_num_threads(1)
    with ExitStack() as stack:
        step = forward(Path(weights)) if what == "forward" else engine(store, stack)
        step()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        since, rows = time.perf_counter(), 0
        while (took := time.perf_counter() - since) < float(seconds):
            rows += step()
        sys.stdout.write(f"{rows} {took}\n")
        sys.stdout.flush()
        # Who is done first leaves the cores as they were for the others.
        os._exit(0)


def forward(weights: Path) -> Callable[[], int]:
    """Both networks in float32 by tiles, the decoder at the mean: no noise, no densities."""
    from peers.model import LATENT, VAE

    model = VAE()
    model.load_state_dict(load_file(weights))
    x = torch.from_numpy(workload.rows(ROWS, np.float32))

    def step() -> int:
        with torch.inference_mode():
            for tile in x.split(TILE):
                model.decoder(model.encoder(tile)[:, :LATENT])
        return ROWS

    return step


def engine(store: str, stack: ExitStack) -> Callable[[], int]:
    """What the server does between a request's array and its answer's: noise, tiles, float64 reductions."""
    from elbod.engine.bulk import open_bulk
    from elbod.engine.jobs import Job, Verb
    from elbod.engine.loading import load
    from elbod.engine.runner import Runner
    from elbod_store import ModelStore

    runner = Runner.reproducible("cpu")
    opened = ModelStore.open(store)
    resident = load(opened, opened.resolve(workload.NAME), runner)
    bulk = stack.enter_context(open_bulk(runner, 1))
    # Several of the server's requests, so that the engine has the next one when it is done with one.
    job = Job(verb=Verb.ELBO, rows=4 * ROWS, seed=0, x=workload.rows(4 * ROWS, np.float32))

    def step() -> int:
        bulk.run(job, resident, lambda rows: None)
        return job.rows

    return step


if __name__ == "__main__":
    main(*sys.argv[1:])
