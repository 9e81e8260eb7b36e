"""The mechanism: gathers a tile's inputs, runs its program, and hands its outputs out. Decides nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from elbod.engine.backends.base import Array, Backend, Fetched
from elbod.engine.loading import Resident
from elbod.engine.programs import ENCODE, Encoded, End, Inputs, Move, Source, row_dtype
from elbod.engine.slots import SlotNumbers, Slots
from elbod.engine.work import Share, Work
from elbod.generators.noise import Stream, blocks_of
from elbod.generators.terms import leaves, mapped


class Launched(NamedTuple):
    """A tile that runs or has run, with what will be its outputs, or the error that it raised."""

    work: Work
    outputs: Fetched | None
    error: BaseException | None


class Runner:
    """Runs tiles on one backend, from the tables of each model."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._slots: WeakKeyDictionary[Resident, Slots] = WeakKeyDictionary()

    def slots(self, resident: Resident) -> Slots:
        """The tables of a model."""
        found = self._slots.get(resident)
        if found is None:
            dtype = row_dtype(resident.generator)
            found = self._slots[resident] = Slots(self.backend, dtype, resident.slot_bytes, resident.walk_bytes)
        return found

    def launch(self, work: Work) -> Launched:
        """Begin to run a tile. Whatever a model raises, SystemExit too, is an error of its tile."""
        try:
            return Launched(work, self._run(work), None)
        except BaseException as error:
            return Launched(work, None, error)

    def outputs(self, launched: Launched) -> tuple[Array, ...]:
        """The outputs of a tile's draws, once they are there; none of a tile of rows, whose outputs stay in the tables.
        Raises what the model raised.
        """
        if launched.error is not None:
            raise launched.error
        assert launched.outputs is not None
        work, arrays = launched.work, tuple(launched.outputs())
        if work.program is not ENCODE:
            return arrays
        self.slots(work.resident).keep_row_terms(_joined([share.slots for share in work.shares]), arrays)
        return ()

    def culprit(self, work: Work) -> int:
        """The first unit of a tile's only share that its model fails on: the last of the shortest part that fails."""
        (share,) = work.shares
        least, most = 1, len(share.slots)
        while least < most:
            middle = (least + most) // 2
            try:
                self.outputs(self.launch(work.alone(share.part(slice(0, middle)))))
                least = middle + 1
            except BaseException:  # of whatever kind, as before
                most = middle
        return least - 1

    def _run(self, work: Work) -> Fetched:
        resident, program, size, shares = work
        slots, generator = self.slots(resident), resident.generator
        numbers = _joined([share.slots for share in shares])
        padded = _padded(numbers, size)
        label = slots.take("label", padded) if generator.conditional else None
        if program is ENCODE:
            encoded = self.backend.encode(generator, Inputs(x=slots.take("x", padded), label=label))
            _check_parameters(encoded, resident, size)
            _check_rows(encoded.terms, size)
            slots.keep_parameters(numbers, encoded.parameters)
            outputs: Any = encoded.terms
        else:
            given = self._draw_inputs(work, padded)
            outputs = self.backend.draw(generator, program, Inputs(label=label, **given))
            _check_rows(outputs, size)
            if End.WALK in program.ends:
                assert slots.walks is not None
                slots.walks.write("z", work.walks, outputs.z[: len(numbers)], np.float32)
                outputs = replace(outputs, z=None)
        if program not in slots.types:
            slots.types[program] = mapped(lambda _: True, outputs)
        return self.backend.fetch(leaves(outputs))

    def _draw_inputs(self, work: Work, padded: SlotNumbers) -> dict[str, Any]:
        resident, program, size, shares = work
        slots, inputs = self.slots(resident), dict[str, Any]()
        draws = _joined([share.draws for share in shares])
        keys = slots.keys(padded[: len(draws)], draws.astype(np.uint64))
        if program.reads_z:
            if slots.walks is None:
                inputs["z"] = slots.take("z", padded)
            else:
                inputs["z"] = slots.walks.take("z", _padded(work.walks, size))
        if slots.walks is not None and (program.reads_z or program.move is not None):
            level, below = (_padded(values, size) for values in _places(shares))
            inputs["level"] = self.backend.tensor(level)
            if program.move is not None:
                inputs["below"] = self.backend.tensor(below)
        if program.guided:
            inputs["guidance"] = self.backend.tensor(_padded(_guidance(shares), size)[:, None])
        if program.source in (Source.POSTERIOR, Source.ROWS):
            dimensions, stream = resident.noise_dimensions, _streams(shares)
            if program.source is Source.POSTERIOR:
                inputs["parameters"] = slots.parameters(resident.row_shapes, padded)
        else:
            dimensions = resident.generator.prior().noise_dimensions
            stream = Stream.PRIOR if program.move is None else Stream.TRANSITION
        if program.reads_noise:
            blocks = _first_blocks(shares, dimensions)
            inputs["noise"] = self.backend.normals(keys, stream, dimensions, size, blocks)
        if program.reads_u:
            inputs["u"] = self.backend.uniforms(keys, resident.generator.event_shape, size)
        if program.reads_temperature:
            inputs["temperature"] = slots.take("temperature", padded)
        if program.reads_x:
            inputs["x"] = slots.take("x", padded)
        return inputs


def _padded(slots: SlotNumbers, size: int) -> SlotNumbers:
    """Padding repeats a unit: it must be as proper as any."""
    if len(slots) == size:
        return slots
    padded = np.empty(size, slots.dtype)
    padded[: len(slots)] = slots
    padded[len(slots) :] = slots[-1]
    return padded


def _streams(shares: Sequence[Share]) -> Any:
    """The noise stream of a tile, or one a unit: pilots draw from q(z|x) with noise of their own."""
    pilots = sum(share.chunk.pilot for share in shares)
    if pilots in (0, len(shares)):
        return Stream.PILOT if pilots else Stream.POSTERIOR
    streams = [Stream.PILOT if share.chunk.pilot else Stream.POSTERIOR for share in shares]
    return np.repeat(streams, [len(share.slots) for share in shares]).astype(np.uint64)


def _places(shares: Sequence[Share]) -> tuple[Array, Array]:
    """The level of each unit of a tile, and the one below that its pass makes, (n,) each."""
    found = [share.places() for share in shares]
    return _joined([level for level, _ in found]), _joined([below for _, below in found])


def _guidance(shares: Sequence[Share]) -> Array:
    """That of each unit's job, (n,) float64."""
    return np.repeat([share.progress.job.guidance for share in shares], [len(share.slots) for share in shares])


def _first_blocks(shares: Sequence[Share], dimensions: int) -> int | Array:
    """The counter block at which the noise begins of the level that a pass makes, or that of each unit: a level's
    noise does not depend on what is drawn at others, so any level can be drawn alone."""
    made = {share.step.below for share in shares}
    if len(made) == 1 and all(share.step.program.move is not Move.VISIT for share in shares):
        return made.pop() * blocks_of(dimensions)
    return (_joined([share.made() for share in shares]) * blocks_of(dimensions)).astype(np.uint64)


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _check_rows(outputs: Any, size: int) -> None:
    """Every output has one entry a row, before any of them is kept."""
    if wrong := [tuple(values.shape) for values in leaves(outputs) if values.shape[:1] != (size,)]:
        raise ValueError(f"an output has shape {wrong[0]} for {size} rows")


def _check_parameters(encoded: Encoded, resident: Resident, size: int) -> None:
    """Parameters of q(z|x) have the shapes of the load: others would fail all rows of a tile later."""
    for name, shape in resident.row_shapes.items():
        found = encoded.parameters[name].shape
        if found[0] != size or found[1:] != shape:
            raise ValueError(f"{name} has shape {tuple(found)}, not {(size, *shape)}")
