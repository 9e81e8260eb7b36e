"""Proof at load that batches do not change bytes, for this model on this machine.

Linear algebra libraries choose their kernels by shape, so a row's last bits may depend on how many rows run beside
it. Fixed tile sizes mostly agree; this test keeps the sizes that do, and says whether any do.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from elbod.engine.runner import PARAMETER, DrawInputs, Outputs, Runner, Source, row_dtype
from elbod.generators.base import Generator

Order = NDArray[np.int64]

# Whether draws that are scored alone are what they are beside others.
_AGREES = "agrees"

# Of a wide tile: a small job waits for two of them at most.
_WIDE_TILE_SECONDS = 0.01
# What a wide tile must gain a row.
_WIDE_TILE_GAIN = 0.95
_TIMED_RUNS = 3

_SEED = 20_131_220  # the day that "Auto-Encoding Variational Bayes" appeared


def proved_sizes(runner: Runner, generator: Generator, sizes: Sequence[int]) -> tuple[int, ...]:
    """The ascending tile sizes whose rows have equal bytes at every tried size, position and company.

    Empty if not even the largest size is independent of position and company. Running every size also warms it.
    """
    largest = max(sizes)
    rows = _rows(runner, generator, largest)
    expected = _run(runner, generator, rows, np.arange(largest), largest)
    if not expected[_AGREES].all():
        return ()
    proved = []
    for size in sorted(sizes):
        if all(_equal(_run(runner, generator, rows, order, size), expected, order) for order in _orders(largest, size)):
            proved.append(size)
    return tuple(proved) if largest in proved else ()


def wide_sizes(runner: Runner, generator: Generator, proved: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """Those of the ascending wide `sizes` that are worth their while: rows have the bytes that they have in the largest
    of the `proved` tiles, and take less time each than in the next smaller one.

    The smaller networks are, the more of a tile's time does not depend on its rows. Time decides what is used, and
    never a byte.
    """
    largest = proved[-1]
    rows = _rows(runner, generator, largest)
    expected = _run(runner, generator, rows, np.arange(largest), largest)
    wide: list[int] = []
    seconds = _seconds(runner, generator, rows, np.arange(largest))
    for before, size in pairwise((largest, *sizes)):
        if seconds * size / before > _WIDE_TILE_SECONDS:
            break
        orders = [np.resize(order, size) for order in _orders(largest, largest)]
        if not all(_equal(_run(runner, generator, rows, order, size), expected, order) for order in orders):
            break
        taken = _seconds(runner, generator, rows, orders[0])
        if taken / size > _WIDE_TILE_GAIN * seconds / before:
            break
        wide.append(size)
        seconds = taken
    return tuple(wide)


def _seconds(runner: Runner, generator: Generator, rows: DrawInputs, order: Order) -> float:
    """What a full tile of scored rows takes, at best: other work on the machine only adds."""
    inputs = DrawInputs.zeros(generator, len(order))
    inputs.source[:], inputs.seed[:], inputs.index[:], inputs.temperature[:] = Source.POSTERIOR, _SEED, order, 1
    inputs.x[:], inputs.label[:] = rows.x[order], rows.label[order]
    inputs.wants = {"weights", "score"}
    taken = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        inputs.parameters = _parameters(runner.encode(generator, inputs.x, inputs.label))
        runner.draw(generator, inputs)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _parameters(encoded: Outputs) -> Outputs:
    return {name.removeprefix(PARAMETER): values for name, values in encoded.items() if name.startswith(PARAMETER)}


def _orders(rows: int, size: int) -> list[Order]:
    """Which rows stand where: every row at least once, forwards, backwards, shuffled, and tiles partly filled."""
    shuffled = np.random.default_rng(_SEED).permutation(rows)
    orders = []
    for order in (np.arange(rows), np.arange(rows)[::-1], shuffled):
        orders += [order[start : start + size] for start in range(0, rows, size)]
    orders += [shuffled[: max(1, size // 2)], shuffled[:1]]
    return orders


def _rows(runner: Runner, generator: Generator, count: int) -> DrawInputs:
    """Units of both kinds over rows that the model itself drew, so that they lie in its support."""
    inputs = DrawInputs.zeros(generator, count)
    inputs.source[:] = Source.PRIOR
    inputs.seed[:], inputs.index[:], inputs.temperature[:] = _SEED, np.arange(count), 1
    inputs.sampled[:] = True
    inputs.label[:] = np.arange(count) % max(1, len(generator.blueprint.labels or ()))
    inputs.wants = {"sample"}
    x = runner.draw(generator, inputs)["sample"].astype(row_dtype(generator))
    return replace(inputs, x=x, wants={"weights", "map", "sample", "mean"})


def _run(runner: Runner, generator: Generator, rows: DrawInputs, order: Order, size: int) -> Outputs:
    """Both stages on `rows[order]`, padded to `size`; odd rows draw from the posterior, even ones from the prior."""
    count = len(order)
    inputs = DrawInputs.zeros(generator, size)
    for name in ("seed", "index", "temperature", "sampled", "x", "label"):
        getattr(inputs, name)[:count] = getattr(rows, name)[order]
    encoded = runner.encode(generator, inputs.x, inputs.label)
    inputs.source[:count] = np.where(order % 2 == 1, Source.POSTERIOR, Source.PRIOR)
    inputs.draw[:count] = order
    inputs.wants = rows.wants
    inputs.parameters = _parameters(encoded)
    drawn = runner.draw(generator, inputs)
    outputs = {name: values[:count] for name, values in (encoded | drawn).items()}
    scored, odd = _scored(runner, generator, inputs), order % 2 == 1
    agrees = all(values[:count][odd].tobytes() == outputs[name][odd].tobytes() for name, values in scored.items())
    return outputs | {_AGREES: np.full(count, agrees)}


def _scored(runner: Runner, generator: Generator, mixed: DrawInputs) -> Outputs:
    """The tile's posterior draws without its other units: scored alone, they may take a shorter way."""
    units = mixed.source == Source.POSTERIOR
    if not units.any():
        return {}
    source = np.where(units, mixed.source, Source.GIVEN).astype(np.uint8)
    return runner.draw(generator, replace(mixed, source=source, wants={"weights", "score"}))


def _equal(outputs: Outputs, expected: Outputs, order: Order) -> bool:
    # A tile without posterior units has no posterior densities: what is there must be equal.
    return all(values.tobytes() == expected[name][order].tobytes() for name, values in outputs.items())
