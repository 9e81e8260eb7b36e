"""Proof at load that batches do not change bytes, and that every verb has an answer, for this model on this machine.

Linear algebra libraries choose their kernels by shape, so a row's last bits may depend on how many rows run with it.
Fixed tile sizes mostly agree; this test keeps the sizes that do, and says whether any do.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbod.engine.backends.base import Array, Backend
from elbod.engine.programs import (
    ADVANCE,
    BEGIN,
    DATA,
    GUIDED,
    OBSERVE_MAP,
    SCORE,
    SCORE_MAP,
    Encoded,
    End,
    Inputs,
    Program,
    Source,
    proofs,
    row_dtype,
)
from elbod.generators.base import Generator
from elbod.generators.noise import Keys, Stream
from elbod.generators.terms import leaves

Order = NDArray[np.int64]

# Of a wide tile: a small job waits for two of them at most. Slower programs do not run on an event loop.
TILE_SECONDS = 0.01
# What a wide tile must gain a row.
_WIDE_TILE_GAIN = 0.95
# A tile is timed at least so often, and for so long: one run may be disturbed, and a wrong choice costs a third.
_TIMED_RUNS, _TIMED_SECONDS = 3, 0.05

SEED = 20_131_220  # the day that "Auto-Encoding Variational Bayes" appeared


@dataclass(frozen=True)
class Proved:
    """The ascending sizes whose rows have equal bytes at every tried size, position and company, and wider ones that
    are faster a row; none if not even the largest size is independent of position and company.

    `seconds` is what the slowest program takes on the largest tile in use: means over many levels take far longer than
    scores.
    """

    sizes: tuple[int, ...]
    wide: tuple[int, ...]
    seconds: float


class SelfTest:
    """Runs programs on rows that the model itself drew, so that they lie in its support."""

    def __init__(self, backend: Backend, generator: Generator, noise_dimensions: int, sizes: Sequence[int]) -> None:
        self._backend, self._generator, self._sizes = backend, generator, sizes
        self._posterior_dimensions = noise_dimensions
        self._largest = size = sizes[-1]
        classes = len(generator.blueprint.labels or ()) + (generator.null_label is not None)
        self._label = np.arange(size) % max(1, classes)
        self._level = np.arange(size) % max(1, generator.levels) + 1
        rows = np.arange(size)
        noise = self._noise(Stream.PRIOR, rows, size)
        inputs = Inputs(
            label=self._tensor(self._label) if generator.conditional else None,
            noise=noise,
            # What lies in the support is drawn from any latents: those of a family with levels need not come from p.
            z=noise,
            u=backend.uniforms(_keys(rows), generator.event_shape, size),
        )
        source = Source.GIVEN if generator.levels else Source.PRIOR
        drawn = backend.draw(generator, DATA[source, End.SAMPLE], inputs)
        assert drawn.sample is not None
        assert drawn.z is not None
        x, self._z = backend.fetch([drawn.sample, drawn.z])()
        self._x = x.astype(row_dtype(generator))

    def run(self, wide: Sequence[int]) -> Proved:
        """Try every size, and then the `wide` ones. Running a size also warms it."""
        largest = self._largest
        expected = self._outputs(np.arange(largest), largest)
        proved = []
        for size in self._sizes:
            orders = _orders(largest, size)
            if all(_equal(self._outputs(order, size), expected, order) for order in orders):
                proved.append(size)
        if largest not in proved:
            return Proved((), (), self._slowest(largest))
        wider = self._wide(expected, wide)
        return Proved(tuple(proved), wider, self._slowest((largest, *wider)[-1]))

    def _wide(self, expected: list[Array], sizes: Sequence[int]) -> tuple[int, ...]:
        """Those of the ascending `sizes` whose rows have the expected bytes and take less time than in the next smaller
        tile.

        The smaller networks are, the more of a tile's time does not depend on its rows. Time decides what is used, and
        never a byte.
        """
        wide: list[int] = []
        seconds = self._seconds(np.arange(self._largest))
        for before, size in pairwise((self._largest, *sizes)):
            if seconds * size / before > TILE_SECONDS:
                break
            orders = [np.resize(order, size) for order in _orders(self._largest, self._largest)]
            if not all(_equal(self._outputs(order, size), expected, order) for order in orders):
                break
            taken = self._seconds(orders[0])
            if taken / size > _WIDE_TILE_GAIN * seconds / before:
                break
            wide.append(size)
            seconds = taken
        return tuple(wide)

    def _seconds(self, order: Order) -> float:
        """What a full tile of scored rows takes, or of one pass of them, at best: other work on the machine only adds.

        On a CPU the time that this thread computed.
        """
        clock = self._clock()
        inputs, taken = self._inputs(order, len(order)), list[float]()
        while len(taken) < _TIMED_RUNS or sum(taken) < _TIMED_SECONDS:
            started = clock()
            encoded = self._backend.encode(self._generator, inputs)
            program = ADVANCE[Source.POSTERIOR] if self._generator.levels else SCORE
            scored = self._given(program, order, len(order), encoded)
            self._backend.fetch(leaves(self._backend.draw(self._generator, program, scored)))()
            taken.append(clock() - started)
        return min(taken)

    def _clock(self) -> Callable[[], float]:
        return time.thread_time if self._backend.device.type == "cpu" else time.perf_counter

    def _slowest(self, size: int) -> float:
        """What the slowest program takes on a full tile, at best of three; of the first that takes very long."""
        order, clock, slowest = np.resize(np.arange(self._largest), size), self._clock(), 0.0
        encoded = self._backend.encode(self._generator, self._inputs(order, size))
        for program in self._programs():
            given, taken = self._given(program, order, size, encoded), list[float]()
            for _ in range(_TIMED_RUNS):
                started = clock()
                self._backend.fetch(leaves(self._backend.draw(self._generator, program, given)))()
                taken.append(clock() - started)
            slowest = max(slowest, min(taken))
            if slowest > TILE_SECONDS:
                break
        return slowest

    def _programs(self) -> tuple[Program, ...]:
        """Those that may take longest."""
        if not self._generator.levels:
            return (*DATA.values(), SCORE_MAP)
        ends = (DATA[Source.GIVEN, End.SAMPLE], DATA[Source.GIVEN, End.MEAN], OBSERVE_MAP)
        guided = () if self._generator.null_label is None else tuple(GUIDED.values())
        return (*ADVANCE.values(), *guided, *BEGIN.values(), *ends)

    def _given(self, program: Program, order: Order, size: int, encoded: Encoded) -> Inputs:
        """What a program reads, for the rows of `order`."""
        inputs, backend = self._inputs(order, size), self._backend
        stream = Stream.PRIOR if program.source is Source.PRIOR else Stream.POSTERIOR
        return Inputs(
            x=inputs.x if program.reads_x else None,
            label=inputs.label,
            parameters=encoded.parameters if program.source is Source.POSTERIOR else {},
            noise=self._noise(stream, order, size) if program.reads_noise else None,
            temperature=self._tensor(np.ones((size, 1), np.float32)) if program.reads_temperature else 1.0,
            z=inputs.z if program.reads_z else None,
            u=backend.uniforms(_keys(order), self._generator.event_shape, size) if program.reads_u else None,
            level=inputs.level if self._generator.levels and (program.reads_z or program.move) else None,
            below=inputs.below if program.move else None,
            guidance=self._tensor(np.ones((size, 1))) if program.guided else None,
        )

    def _outputs(self, order: Order, size: int) -> list[Array]:
        """All outputs of all computations on the rows of `order`, padded to `size` as the engine pads."""
        encoded = self._backend.encode(self._generator, self._inputs(order, size))
        tensors = [*encoded.parameters.values(), *leaves(encoded.terms)]
        for proof in proofs(self._generator):
            given = self._given(proof, order, size, encoded)
            tensors += leaves(self._backend.draw(self._generator, proof, given))
        return [values[: len(order)] for values in self._backend.fetch(tensors)()]

    def _inputs(self, order: Order, size: int) -> Inputs:
        padded = np.concatenate([order, np.repeat(order[-1:], size - len(order))])
        label = self._tensor(self._label[padded]) if self._generator.conditional else None
        level = self._tensor(self._level[padded])
        x, z = self._tensor(self._x[padded]), self._tensor(self._z[padded])
        return Inputs(x=x, label=label, z=z, level=level, below=level - 1)

    def _noise(self, stream: Stream, order: Order, size: int) -> Tensor:
        prior = stream is Stream.PRIOR
        dimensions = self._generator.prior().noise_dimensions if prior else self._posterior_dimensions
        return self._backend.normals(_keys(order), stream, dimensions, size)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._backend.device)


def _keys(order: Order) -> Keys:
    return Keys.of(SEED, order, order)


def _orders(rows: int, size: int) -> list[Order]:
    """Which rows stand where: every row at least once, forwards, backwards, shuffled, and tiles partly filled."""
    shuffled = np.random.default_rng(SEED).permutation(rows)
    orders = []
    for order in (np.arange(rows), np.arange(rows)[::-1], shuffled):
        orders += [order[start : start + size] for start in range(0, rows, size)]
    orders += [shuffled[: max(1, size // 2)], shuffled[:1]]
    return orders


def _equal(outputs: list[Array], expected: list[Array], order: Order) -> bool:
    return all(mine.tobytes() == whole[order].tobytes() for mine, whole in zip(outputs, expected, strict=True))
