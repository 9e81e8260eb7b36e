"""What float64 costs in `/elbo` on the CPU: its densities, its sums and its noise beside the networks in float32.

    python benchmarks/precision.py [--rounds N] [--hidden N ...] [--latent-dim N]

A VAE 784-500-500-50 with a Bernoulli likelihood and the mirrored decoder, one full tile of rows, one thread. The bare
forward is `encode` of the tile and `decode` of a tile a draw, in float32. Every part is timed by itself, all of them in
every round, with the functions that the service runs; the float32 of a density is the same method without `.double()`.
Times are processor time of the thread: a wall clock counts other processes, and longer calls meet more of them.
"""

import argparse
import datetime
import platform
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from elbod import __version__
from elbod.engine.loading import CPU_TILES
from elbod.engine.runner import DrawInputs, Runner, Source, row_dtype
from elbod.generators import bounds, checkpoint
from elbod.generators.base import Blueprint
from elbod.generators.bounds import PriorTerms
from elbod.generators.noise import Keys, Stream, normals
from elbod.generators.posteriors import DiagonalNormal
from elbod.generators.priors import StandardNormal

TILE = CPU_TILES[-1]
DRAWS = (1, 64)

# Calls that are timed together, so that the clock's own time does not show.
CALLS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--hidden", type=int, nargs="+", default=[500, 500])
    parser.add_argument("--latent-dim", type=int, default=50)
    arguments = parser.parse_args()
    runner = Runner.reproducible("cpu")
    torch.manual_seed(0)
    with torch.inference_mode():
        calls = parts(runner, tuple(arguments.hidden), arguments.latent_dim)
        times = measure(calls, arguments.rounds)
    capability = torch.backends.cpu.get_cpu_capability()
    sys.stdout.write(
        f"{datetime.date.today()}, {platform.machine()}, {capability}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}, elbod {__version__}\n"
        f"processor time, medians of {arguments.rounds} rounds of {CALLS} calls, a tile of {TILE}, "
        f"hidden {arguments.hidden}, latent_dim {arguments.latent_dim}\n"
        f"{''.join(table(times, draws) for draws in DRAWS)}"
    )


def parts(runner: Runner, hidden: tuple[int, ...], latent_dim: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name; `x64` and `x32` are the same computation in the two precisions."""
    spec = {"latent_dim": latent_dim, "hidden": hidden}
    generator = checkpoint.build(Blueprint(family="vae", spec=spec, likelihood="bernoulli", event_shape=(28, 28)))
    generator.eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (TILE, 28, 28)).astype(row_dtype(generator))
    rows, keys = torch.from_numpy(x), Keys.of(0, np.arange(TILE))
    q, prior = generator.encode(rows), generator.prior()
    assert isinstance(q, DiagonalNormal)
    assert isinstance(prior, StandardNormal)
    z = q.draw(torch.from_numpy(normals(keys, Stream.POSTERIOR, latent_dim)).float())
    observed = generator.decode(z)
    inputs, label = DrawInputs.zeros(generator, TILE), np.zeros(TILE, np.int64)
    inputs.source[:], inputs.index[:], inputs.temperature[:], inputs.x[:] = Source.POSTERIOR, np.arange(TILE), 1, x
    inputs.parameters = {name: value.numpy() for name, value in q.parameters.items()}
    inputs.wants = {"score"}
    elements = {32: observed.log_prob(rows), 64: observed.double().log_prob(rows)}

    def prior_terms(posterior: DiagonalNormal) -> object:
        return (
            prior.kl(posterior),
            prior.expected_log_prob(posterior),
            posterior.entropy(),
            prior.kl_per_dimension(posterior),
        )

    def reduction(draws: int, dtype: type[np.floating[Any]]) -> Callable[[], object]:
        # Annotated as float64, as it is always called; only here is it given anything else.
        columns: list[Any] = [rng.normal(size=(TILE, count)).astype(dtype) for count in (draws, 1, 1, 1)]
        return lambda: bounds.elbo(columns[0], PriorTerms(*columns[1:]))

    return {
        "encode": lambda: generator.encode(rows),
        "decode": lambda: generator.decode(z),
        "likelihood64": lambda: observed.double().log_prob(rows),
        "likelihood32": lambda: observed.log_prob(rows),
        "prior terms64": lambda: prior_terms(q.double()),
        "prior terms32": lambda: prior_terms(q),
        "event sum64": lambda: elements[64].flatten(1).sum(-1),
        "event sum32": lambda: elements[32].flatten(1).sum(-1),
        **{f"reduction {draws} 64": reduction(draws, np.float64) for draws in DRAWS},
        **{f"reduction {draws} 32": reduction(draws, np.float32) for draws in DRAWS},
        "noise": lambda: normals(keys, Stream.POSTERIOR, latent_dim),
        "runner encode": lambda: runner.encode(generator, x, label),
        "runner draw": lambda: runner.draw(generator, inputs),
    }


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor seconds of one call of each; the first round warms up and is dropped."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.thread_time()
            for _ in range(CALLS):
                call()
            found[name].append((time.thread_time() - started) / CALLS)
    return {name: median(times[1:]) for name, times in found.items()}


def table(times: dict[str, float], draws: int) -> str:
    """Microseconds of a tile of rows with so many draws each, and their share of the bare forward, as markdown."""
    forward = times["encode"] + draws * times["decode"]
    timed = {
        "(a) sums over event dimensions": [draws * times[f"event sum{bits}"] for bits in (64, 32)],
        "(a) reduction over draws, `bounds.elbo`": [times[f"reduction {draws} {bits}"] for bits in (64, 32)],
        "(b) log p(x given z) by element": [draws * times[f"likelihood{bits}"] for bits in (64, 32)],
        "(b) KL, E[log p(z)], entropy, KL by dimension": [times[f"prior terms{bits}"] for bits in (64, 32)],
    }
    timed["(a) + (b)"] = [sum(pair) for pair in zip(*timed.values(), strict=True)]
    alone = {
        "(c) noise, Philox and Box-Muller": draws * times["noise"],
        "`Runner.encode`, `Runner.draw` and the reduction": times["runner encode"]
        + draws * times["runner draw"]
        + times[f"reduction {draws} 64"],
    }
    lines = [
        f"\n| {TILE} rows, S = {draws} | float64, µs | of the forward | float32, µs | float64 adds, of the forward |",
        "|---|---|---|---|---|",
        f"| bare forward: encode, {draws} decode | | | {1e6 * forward:,.0f} | |",
        *(
            f"| {name} | {1e6 * double:,.0f} | {double / forward:.1%} | {1e6 * single:,.0f} "
            f"| {(double - single) / forward:.1%} |"
            for name, (double, single) in timed.items()
        ),
        *(f"| {name} | {1e6 * value:,.0f} | {value / forward:.1%} | | |" for name, value in alone.items()),
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
