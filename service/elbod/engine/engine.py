"""The heartbeat: schedule a tile, run it, settle what it finished."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from elbod.engine.admission import Admission
from elbod.engine.backends.base import Array, Backend
from elbod.engine.counters import WorkCounters
from elbod.engine.jobs import Encodings, Result, Samples, Scores, Stage, Verb
from elbod.engine.loading import Resident
from elbod.engine.programs import ENCODE, Drawn, Encoded, End, Inputs, Program, Source, row_dtype
from elbod.engine.progress import Chunk, Counts, Progress
from elbod.engine.reductions import Columns, finite_rows, needed_samples, reduce, reduced_together
from elbod.engine.scheduler import next_tile
from elbod.engine.slots import SlotNumbers, Slots
from elbod.errors import ElbodError, InvalidInput, ModelFailure
from elbod.generators.noise import Stream
from elbod.generators.terms import leaves, mapped

logger = logging.getLogger(__name__)

Lane = tuple[Resident, Program]

# A job's answer, or why there is none.
Outcome = Result | ElbodError
# Hears of all jobs of one caller that a tile finished.
Deliver = Callable[[Sequence[tuple[Progress, Outcome]]], None]


class Share(NamedTuple):
    """Consecutive units of one job in a tile: the slots of their rows, and their draws."""

    progress: Progress
    chunk: Chunk
    start: int
    slots: SlotNumbers
    draws: Counts

    def first(self, count: int) -> "Share":
        """The first units alone."""
        return self._replace(slots=self.slots[:count], draws=self.draws[:count])

    def item(self, program: Program, unit: int) -> int:
        """The item of the chunk that a unit belongs to."""
        place = self.start + unit
        return place if program is ENCODE else int(self.chunk.units(place, 1)[0][0])


@dataclass(frozen=True, slots=True)
class Work:
    """A tile that may run: units of several jobs, padded to `size`."""

    resident: Resident
    program: Program
    size: int
    shares: tuple[Share, ...]


class Engine:
    """Runs many callers' jobs on one backend, one tile at a time. Knows no thread: whoever calls `step` computes."""

    def __init__(self, backend: Backend, admission: Admission) -> None:
        self.backend, self.admission = backend, admission
        self.counters = WorkCounters()
        self._ids = count()
        # Who waits for which program of which model, in turn order.
        self._lanes: OrderedDict[Lane, OrderedDict[int, Progress]] = OrderedDict()
        self._slots: WeakKeyDictionary[Resident, Slots] = WeakKeyDictionary()
        self._types: dict[tuple[Resident, Program], Any] = {}

    def add(self, progress: Progress) -> None:
        """Let an admitted job take part."""
        self._enter(next(self._ids), progress)

    @property
    def waiting(self) -> bool:
        """Whether `step` may find work."""
        return bool(self._lanes)

    def step(self) -> bool:
        """Run one tile, and tell the callers whose jobs it finished; False if nothing waits."""
        work = self._schedule()
        if work is None:
            return False
        started = time.monotonic()
        # Numbers that are not finite are refused with their row.
        with np.errstate(all="ignore"):
            outcomes = self._run(work)
        if work.program is not ENCODE:
            units = sum(len(share.slots) for share in work.shares)
            self.admission.note_speed(units / max(time.monotonic() - started, 1e-6))
        self._deliver(outcomes)
        return True

    def _deliver(self, outcomes: Sequence[tuple[Progress, Outcome]]) -> None:
        """Tell each caller of all its jobs at once."""
        callers: dict[Deliver, list[tuple[Progress, Outcome]]] = {}
        for progress, outcome in outcomes:
            if self.admission.leave(progress):
                callers.setdefault(progress.deliver, []).append((progress, outcome))
        for deliver, answered in callers.items():
            deliver(answered)

    # Schedule.

    def _enter(self, key: int, progress: Progress) -> None:
        self._lanes.setdefault((progress.resident, progress.next_program), OrderedDict())[key] = progress

    def _schedule(self) -> Work | None:
        """Take the next tile's units out of the first lane that has any; lanes take turns."""
        for lane in list(self._lanes):
            queue = self._lanes.pop(lane)
            resident, program = lane
            turn: list[tuple[int, Progress]] = []
            for key, progress in list(queue.items()):
                if progress.closed:
                    self._leave(queue.pop(key))
                elif len(turn) < resident.sizes[-1]:
                    turn.append((key, progress))
            if not turn:
                continue
            size, counts = next_tile([progress.units for _, progress in turn], resident.sizes)
            shares, now, slots = [], time.monotonic(), self._slots_of(resident)
            for (key, progress), units in zip(turn, counts, strict=True):
                if units:
                    del queue[key]
                    progress.started = progress.started or now
                    shares.append(_take(progress, units, slots))
            if queue:
                self._lanes[lane] = queue
            return Work(resident, program, size, tuple(shares))
        return None

    def _slots_of(self, resident: Resident) -> Slots:
        if resident not in self._slots:
            self._slots[resident] = Slots(self.backend, row_dtype(resident.generator))
        return self._slots[resident]

    # Run.

    def _run(self, work: Work) -> list[tuple[Progress, Outcome]]:
        """Run and settle a tile. One job's failure is its own: its neighbors run again without it."""
        try:
            outputs = self._outputs(work.resident, work.program, work.size, work.shares)
        except BaseException as error:  # whatever a model raises, SystemExit too, must not stop the engine
            if len(work.shares) > 1:
                alone = (Work(work.resident, work.program, work.size, (share,)) for share in work.shares)
                return [outcome for one in alone for outcome in self._run(one)]
            (share,) = work.shares
            row = share.progress.row(share.item(work.program, self._culprit(work, share)))
            return self._end(share.progress, _failure(share.progress, f"failed on {share.progress.place(row)}", error))
        self.counters.ran(_stage(work.program), sum(len(share.slots) for share in work.shares), work.size)
        return self._settle(work, outputs)

    def _culprit(self, work: Work, share: Share) -> int:
        """The first unit of a share that its model fails on: the last of the shortest part that fails."""
        least, most = 1, len(share.slots)
        while least < most:
            middle = (least + most) // 2
            try:
                self._outputs(work.resident, work.program, work.size, (share.first(middle),))
                least = middle + 1
            except BaseException:  # of whatever kind, as before
                most = middle
        return least - 1

    def _outputs(
        self, resident: Resident, program: Program, size: int, shares: Sequence[Share]
    ) -> Encoded | tuple[Array, ...]:
        """The outputs of a program for the units of some shares. Raises whatever the model raises."""
        slots = self._slots_of(resident)
        numbers = _joined([share.slots for share in shares])
        # Padding repeats a unit: it must be as proper as any.
        padded = numbers if len(numbers) == size else np.append(numbers, [numbers[-1]] * (size - len(numbers)))
        label = slots.take("label", padded) if resident.generator.conditional else None
        if program is ENCODE:
            encoded = self.backend.encode(resident.generator, Inputs(x=slots.take("x", padded), label=label))
            _check_parameters(encoded, resident, size)
            slots.keep(numbers, encoded)
            return encoded
        given = self._draw_inputs(resident, program, slots, padded, shares)
        drawn = self.backend.draw(resident.generator, program, Inputs(label=label, **given))
        arrays = tuple(self.backend.arrays(leaves(drawn)))
        if wrong := [values.shape for values in arrays if values.shape[:1] != (size,)]:
            raise ValueError(f"an output has shape {wrong[0]} for {size} rows")
        if (resident, program) not in self._types:
            self._types[resident, program] = mapped(lambda _: True, drawn)
        return arrays

    def _draw_inputs(
        self, resident: Resident, program: Program, slots: Slots, padded: SlotNumbers, shares: Sequence[Share]
    ) -> dict[str, Any]:
        generator, size = resident.generator, len(padded)
        draws = _joined([share.draws for share in shares])
        keys = slots.keys(padded[: len(draws)], draws.astype(np.uint64))
        inputs: dict[str, Any] = {}
        if program.source is Source.GIVEN:
            inputs["z"] = slots.take("z", padded)
        elif program.source is Source.PRIOR:
            inputs["noise"] = self.backend.normals(keys, Stream.PRIOR, generator.prior().noise_dimensions, size)
        else:
            pilots = [share.chunk.pilot for share in shares]
            stream: Any = Stream.PILOT if pilots[0] else Stream.POSTERIOR
            if any(pilots) and not all(pilots):
                streams = [Stream.PILOT if pilot else Stream.POSTERIOR for pilot in pilots]
                stream = np.repeat(streams, [len(share.slots) for share in shares]).astype(np.uint64)
            inputs["noise"] = self.backend.normals(keys, stream, resident.noise_dimensions, size)
            inputs["parameters"] = slots.parameters(resident.row_shapes, padded)
        if End.SAMPLE in program.ends:
            inputs["u"] = self.backend.uniforms(keys, generator.event_shape, size)
        if program.ends & {End.SAMPLE, End.MEAN} and program.source is not Source.GIVEN:
            inputs["temperature"] = slots.take("temperature", padded)
        if program.ends & {End.TERMS, End.MAP}:
            inputs["x"] = slots.take("x", padded)
        return inputs

    # Settle.

    def _settle(self, work: Work, outputs: Encoded | tuple[Array, ...]) -> list[tuple[Progress, Outcome]]:
        """Hand the outputs out; reduce the chunks that are complete, and answer the jobs that are."""
        outcomes: list[tuple[Progress, Outcome]] = []
        complete: list[Progress] = []
        begin = 0
        for share in work.shares:
            end = begin + len(share.slots)
            if not isinstance(outputs, Encoded):
                self._keep(work, share, tuple(values[begin:end] for values in outputs))
            begin = end
            chunk, progress = share.chunk, share.progress
            if chunk.encoded == len(chunk.slots) and chunk.settled == chunk.total:
                complete.append(progress)
            else:
                self._enter(next(self._ids), progress)
        for progress in [progress for progress in complete if _chunk_of(progress).pilot]:
            complete.remove(progress)
            outcomes += self._end_pilot(progress)
        for group in reduced_together(complete):
            outcomes += self._reduce(group)
        return outcomes

    def _keep(self, work: Work, share: Share, piece: tuple[Array, ...]) -> None:
        chunk, kind = share.chunk, self._types[work.resident, work.program]
        chunk.settled += len(share.slots)
        if chunk.map is not None and not chunk.pilot:
            # Added up draw by draw, since a map a draw would not fit into memory. It is the last output of its program.
            *piece_terms, elements = piece
            samples, copies = chunk.samples, share.progress.job.copies
            items, draws = chunk.units(share.start, len(share.slots))
            counted = draws < (samples if isinstance(samples, int) else samples[items // copies])
            np.add.at(chunk.map, items[counted], elements[counted])
            piece, kind = tuple(piece_terms), Drawn(terms=kind.terms)
        chunk.pieces.append(piece)
        chunk.pieces_type = kind

    def _end_pilot(self, progress: Progress) -> list[tuple[Progress, Outcome]]:
        job, chunk = progress.job, _chunk_of(progress)
        try:
            samples = needed_samples(progress, self._slots_of(progress.resident))
        except BaseException as error:
            return self._end(progress, _failure(progress, _NO_ANSWER, error))
        chunk.samples = samples
        chunk.begin_draws(np.repeat(np.maximum(samples, job.num_importance_samples), job.copies), pilot=False)
        self._enter(next(self._ids), progress)
        return []

    def _reduce(self, group: Sequence[Progress]) -> list[tuple[Progress, Outcome]]:
        """Reduce chunks together, and each alone if that fails."""
        try:
            columns = reduce(group, self._slots_of(group[0].resident))
            finite = all(finite_rows(name, values).all() for name, values in columns.items())
        except BaseException as error:  # label_log_prob is the model's, and so are the arrays
            if len(group) == 1:
                return self._end(group[0], _failure(group[0], _NO_ANSWER, error))
            return [outcome for progress in group for outcome in self._reduce([progress])]
        outcomes, begin = list[tuple[Progress, Outcome]](), 0
        for progress in group:
            chunk = _chunk_of(progress)
            end = begin + chunk.rows
            own = columns if len(group) == 1 else {name: values[begin:end] for name, values in columns.items()}
            begin = end
            try:
                if not finite:
                    _check_finite(progress, own)
                outcomes += self._next_chunk(progress, own)
            except BaseException as error:
                outcomes += self._end(progress, _failure(progress, _NO_ANSWER, error))
        return outcomes

    def _next_chunk(self, progress: Progress, columns: Columns) -> list[tuple[Progress, Outcome]]:
        """Keep the columns of a chunk; answer the job, or put its next rows into slots."""
        chunk, job = _chunk_of(progress), progress.job
        if chunk.rows == job.rows:
            progress.results = columns
        else:
            at = slice(chunk.first, chunk.first + chunk.rows)
            for name, values in columns.items():
                if name not in progress.results:
                    progress.results[name] = np.empty((job.rows, *values.shape[1:]), values.dtype)
                progress.results[name][at] = values
        if chunk.first + chunk.rows == job.rows:
            return self._end(progress, _result(progress))
        slots = self._slots_of(progress.resident)
        slots.release(chunk.slots)
        progress.begin(slots)
        self._enter(next(self._ids), progress)
        return []

    def _end(self, progress: Progress, outcome: Outcome) -> list[tuple[Progress, Outcome]]:
        self._leave(progress)
        return [(progress, outcome)]

    def _leave(self, progress: Progress) -> None:
        """Give the slots of a job back that was answered, failed or cancelled."""
        if progress.chunk is not None:
            self._slots_of(progress.resident).release(progress.chunk.slots)
            progress.chunk = None


_NO_ANSWER = "returned what makes no answer"


def _take(progress: Progress, units: int, slots: Slots) -> Share:
    """The next units of a job."""
    chunk = progress.chunk or progress.begin(slots)
    if chunk.encoded < len(chunk.slots):
        start = chunk.encoded
        chunk.encoded += units
        return Share(progress, chunk, start, chunk.slots[start : chunk.encoded], _no_draws(units))
    start = chunk.drawn
    chunk.drawn += units
    if isinstance(chunk.draws, int) and chunk.draws == 1:
        return Share(progress, chunk, start, chunk.slots[start : chunk.drawn], _no_draws(units))
    items, draws = chunk.units(start, units)
    return Share(progress, chunk, start, chunk.slots[items], draws)


def _no_draws(units: int) -> Counts:
    """The first draw of each unit."""
    return _ZEROS[:units] if units <= len(_ZEROS) else np.zeros(units, np.int64)


_ZEROS = np.zeros(256, np.int64)


def _stage(program: Program) -> Stage:
    return Stage.ENCODE if program is ENCODE else Stage.DRAW


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _chunk_of(progress: Progress) -> Chunk:
    assert progress.chunk is not None
    return progress.chunk


def _check_parameters(encoded: Encoded, resident: Resident, size: int) -> None:
    """Parameters of q(z|x) have the shapes of the load: others would fail all rows of a tile later."""
    for name, shape in resident.row_shapes.items():
        if (found := tuple(encoded.parameters[name].shape)) != (size, *shape):
            raise ValueError(f"{name} has shape {found}, not {(size, *shape)}")
    for values in leaves(encoded.terms):
        if values.shape[:1] != (size,):
            raise ValueError(f"a term has shape {tuple(values.shape)} for {size} rows")


def _check_finite(progress: Progress, columns: Columns) -> None:
    """Raises InvalidInput or ModelFailure for the first row without finite numbers."""
    wrong = {name: ~finite_rows(name, values) for name, values in columns.items()}
    rows = {name: int(np.argmax(at)) for name, at in wrong.items() if at.any()}
    if rows:
        name = min(rows, key=lambda name: rows[name])
        raise _not_finite(progress, "x" if name == "undefined" else name, rows[name])


def _not_finite(progress: Progress, what: str, row: int) -> InvalidInput | ModelFailure:
    """A row that the caller gave is the caller's to mend; one of the prior is the model's, unless it was heated."""
    job, row = progress.job, _chunk_of(progress).first + row
    message = f"model '{progress.resident}' returned a value of {what} that is not finite for {progress.place(row)}"
    if (given := progress.given) is not None:
        way_out = f"{given}[{row}] lies beyond what the model can compute: check its units, or leave it out"
        return InvalidInput.at(f"/{given}/{row}", f"{message}: {way_out}")
    if job.temperature > 1:
        return InvalidInput.at("/temperature", f"{message} at temperature {job.temperature:g}: lower it")
    return ModelFailure(message)


def _result(progress: Progress) -> Result:
    """The finished job's answer."""
    kept, now, job = progress.results, time.monotonic(), progress.job
    value: Samples | Encodings | Scores
    if job.verb is Verb.SAMPLE:
        value = Samples(x=kept["x"], z=kept["z"])
    elif job.verb is Verb.ENCODE:
        prefix = "posterior."
        value = Encodings(
            family=progress.resident.posterior_family,
            parameters={n.removeprefix(prefix): v for n, v in kept.items() if n.startswith(prefix)},
            z=kept.get("z"),
            kl=kept.get("kl"),
            kl_per_dimension=kept.get("kl_per_dimension"),
            log_q=kept.get("log_q"),
        )
    else:
        value = Scores({n: v for n, v in kept.items() if n != "reconstruction_map"}, kept.get("reconstruction_map"))
    started = now if progress.started is None else progress.started
    return Result(value, started - progress.admitted, now - started)


def _failure(progress: Progress, what: str, error: BaseException) -> ElbodError:
    """What a job's caller hears: an error that was meant for it, or only what its model did."""
    if isinstance(error, ElbodError):
        return error
    logger.error("model %s %s", progress.resident, what, exc_info=error)
    failure = ModelFailure(f"model '{progress.resident}' {what}")
    failure.__cause__ = error
    return failure
