"""Models whose draws take passes: scores next to bare passes of the network, small requests meanwhile, and loads."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

import servers
import workload
from bench import Bench
from elbod_engine import LoadedEngine
from elbod_store import ModelStore
from in_process import Processes
from load import Request, ask, percentile
from report import Section, interleave, number, ratios, shown
from servers import Server
from tail import CALLERS, alongside, one_after_the_other

RECIPES = {"digits": "digits-diffusion", "Fashion-MNIST": "fashion-mnist-binary-diffusion"}
LARGE_ROWS = 1_000
LOADS = 3
_WARM_UPS = 20


def measure(bench: Bench) -> Section:
    """Untrained models of the recipes' sizes: weights decide no time."""
    section = Section(f"Models with levels, {bench.rounds} rounds", ("", "way", "evaluations of the network a second"))
    store = ModelStore.open(bench.store)
    for recipe in RECIPES.values():
        store.publish(workload.as_draft(recipe, workload.untrained(workload.recipe_blueprint(recipe))))
    for title, recipe in RECIPES.items():
        _paths(bench, section, title, recipe)
    _small_while_large(bench, section)
    _loads(bench, section)
    return section


def _paths(bench: Bench, section: Section, title: str, recipe: str) -> None:
    passes = 1 + workload.recipe_blueprint(recipe).spec.get("num_levels", 32)
    with Processes.start(bench.store, recipe) as processes, bench.serve() as server:
        tile = processes.tiles[-1]
        request = workload.of_recipe(tile, recipe)
        for _ in range(_WARM_UPS):
            # A worker loads the model when it is first asked for it.
            _seconds_together(server, workload.of_recipe(1, recipe))
        found = interleave(
            bench.rounds,
            {
                f"bare network, tiles of {tile}": partial(processes.rate, f"passes:{tile}", bench.seconds),
                "path scores in process": lambda: passes * processes.rate("paths", bench.seconds),
                f"path scores served, {servers.CORES} requests of {tile} rows": lambda: (
                    passes * tile * servers.CORES / _seconds_together(server, request)
                ),
            },
        )
    section.rows += [(title, name, shown(rates)) for name, rates in found.items()]
    bare, engine, served = found.values()
    section.add(f"{title}: path scores in process / bare passes", ratios(engine, bare, 100), None, unit="%")
    section.add(f"{title}: served path scores / bare passes", ratios(served, bare, 100), 85, unit="%")


def _seconds_together(server: Server, request: Request) -> float:
    """Of a request for each worker at once: each takes seconds, far longer than it travels."""
    started = time.perf_counter()
    with ThreadPoolExecutor(servers.CORES) as pool:
        answers = list(pool.map(lambda _: ask(server.port, request), range(servers.CORES)))
    assert all(status == 200 for status, _ in answers), "a request of rows to score failed"
    return time.perf_counter() - started


def _small_while_large(bench: Bench, section: Section) -> None:
    """One-row requests of a VAE while the one worker of a server scores 1,000 paths."""
    large = workload.of_recipe(LARGE_ROWS, RECIPES["digits"])
    with bench.serve(workers=1) as server:
        lone = one_after_the_other(server, bench.seconds)
        seconds, found = alongside(server, large)
    median, p99 = percentile(lone, 0.5), percentile(found, 0.99)
    section.notes.append(
        f"{CALLERS} callers of the benchmark's VAE take turns at one worker, alone: median {number(1e3 * median)} ms; "
        f"while {LARGE_ROWS:,} paths of the digits' size are scored ({seconds:.1f} s): median "
        f"{number(1e3 * percentile(found, 0.5))} ms, p99 {number(1e3 * p99)} ms."
    )
    section.add("1-row VAE request while 1,000 paths are scored, p99 / its lone median", p99 / median, 5, at_most=True)


def _loads(bench: Bench, section: Section) -> None:
    """Loading proves one pass, not the chain: a VAE of as many weights takes about as long."""
    recipe = RECIPES["digits"]
    weights = sum(p.numel() for p in workload.untrained(workload.recipe_blueprint(recipe)).parameters())
    vae = workload.convolutional_vae(weights)
    ModelStore.open(bench.store).publish(workload.as_draft("vae-of-the-size", vae))
    torch.set_num_threads(1)
    found = interleave(LOADS, {name: partial(_load, bench, name) for name in (recipe, "vae-of-the-size")})
    section.rows += [(name, "seconds to load", shown(seconds)) for name, seconds in found.items()]
    chain, plain = found.values()
    section.notes.append(f"{recipe} has {weights:,} weights, the VAE {sum(p.numel() for p in vae.parameters()):,}.")
    section.add("load of a diffusion / of a VAE of as many weights", ratios(chain, plain), 2, at_most=True)


def _load(bench: Bench, name: str) -> float:
    started = time.perf_counter()
    with LoadedEngine.open(bench.store, name):
        return time.perf_counter() - started
