"""How far a job is: which units come next, and where their outputs go.

A job is worked in chunks of rows, so that its draws never take more memory than a chunk's: a chunk gets slots, is
encoded, drawn (twice, if a pilot decides how often), and reduced to one number a row before the next begins. A family
with levels draws in passes: all draws of a chunk make one before any of them makes the next, so that other jobs run
between two passes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elbod.engine.jobs import PILOT_DRAWS, Array, Job, Verb
from elbod.engine.loading import Resident
from elbod.engine.passes import Keep, Passes, encodes, evaluations, passes
from elbod.engine.programs import ENCODE, Program
from elbod.engine.slots import SlotNumbers, Slots
from elbod.generators.base import Generator
from elbod.generators.noise import Keys, Stream, uniforms
from elbod.generators.strata import visited

# Row-draws held at once by one job, and bytes of its rows in slots: a hierarchy's q(z|x) is whole images of features.
CHUNK = 4096
CHUNK_BYTES = 64 * 1024**2
# Tiles of rows that are encoded before they are drawn.
_CHUNK_TILES = 2

Counts = NDArray[np.int64]

_NOWHERE: SlotNumbers = np.zeros(0, np.int64)


@dataclass(slots=True)
class Chunk:
    """Rows of a job that are in slots. A row under each of the labels that are marginalized over is an item; items of
    a row are contiguous, and so are draws of an item. Draws that take passes have slots of their own, `walks`."""

    first: int
    rows: int
    slots: SlotNumbers
    encoded: int
    # Equally many draws an item, or one number an item.
    draws: int | Counts
    pilot: bool
    total: int = 0
    ends: Counts | None = None
    passes: Passes = ()
    # The number of the pass that is next, and how many draws have taken it.
    at: int = 0
    drawn: int = 0
    walks: SlotNumbers = field(default_factory=lambda: _NOWHERE)
    # Tiles that run with units of the chunk, and units whose outputs are not there yet.
    running: int = 0
    unsettled: int = 0
    # Of each row's draws those that make its ELBO; of the others only importance weights.
    samples: int | Counts = 0
    # Outputs of the draws so far, in order, one tuple of arrays a tile, and their type.
    pieces: list[tuple[Array, ...]] = field(default_factory=list)
    pieces_type: Any = None
    maps: dict[str, Array] = field(default_factory=dict)
    # Terms of the draws' passes so far, (total,) each, and the first level at which a draw's latents were no numbers.
    path: Any = None
    lost: dict[int, int] = field(default_factory=dict)
    # The KL of each pass, (total, passes), the levels that each draw visits, (total, B), and what the answer shows.
    profile: Array | None = None
    visits: Counts | None = None
    latents: Array | None = None
    shown: list[Array | None] = field(default_factory=list)

    def begin_draws(self, draws: int | Counts, passes: Passes, slots: Slots, *, pilot: bool) -> None:
        """Draw equally many, or a number an item, from the beginning."""
        self.draws, self.passes, self.pilot = draws, passes, pilot
        if isinstance(draws, int):
            self.total = len(self.slots) * draws
        else:
            self.ends = np.cumsum(draws)
            self.total = int(self.ends[-1])
        self.unsettled += self.total * len(passes)
        self.at = self.drawn = 0
        self.pieces, self.path, self.lost = [], None, {}
        self.end_walks(slots)
        if slots.walks is not None:
            self.walks = slots.walks.acquire(self.total)
        last = max((one.number for one in passes if one.keep is Keep.SHOWN), default=-1)
        self.shown = [None] * (last + 1)

    def end_walks(self, slots: Slots) -> None:
        """Give the slots of draws back."""
        if slots.walks is not None:
            slots.walks.release(self.walks)
            self.walks = _NOWHERE

    def take(self, units: int) -> None:
        """The next draws take the pass; once all have, it is the next one's turn."""
        self.drawn += units
        if self.drawn == self.total and self.at + 1 < len(self.passes):
            self.at, self.drawn = self.at + 1, 0

    def units(self, start: int, count: int) -> tuple[Counts, Counts]:
        """(item, draw) of the units from `start` on."""
        units = np.arange(start, start + count)
        if isinstance(self.draws, int):
            return (units, np.zeros(count, np.int64)) if self.draws == 1 else np.divmod(units, self.draws)
        assert self.ends is not None
        items = np.searchsorted(self.ends, units, side="right")
        return items, units - (self.ends - self.draws)[items]


class Progress:
    """One admitted job. `closed` says that it was answered, failed or cancelled."""

    __slots__ = (
        "_rows_at_once",
        "admitted",
        "chunk",
        "closed",
        "deliver",
        "encodes",
        "job",
        "kind",
        "passes",
        "resident",
        "results",
        "size",
        "started",
        "way",
    )

    def __init__(self, job: Job, resident: Resident, deliver: Callable[..., None]) -> None:
        self.job, self.resident, self.deliver = job, resident, deliver
        self.way, self.encodes = passes(job, resident.levels), encodes(job, resident.levels)
        self.passes = job.row_draws * evaluations(self.way)
        self._rows_at_once = self._chunk_rows()
        in_slots = min(job.rows, self._rows_at_once) * self._slot_bytes
        self.size = work_bytes(job, resident.generator) + in_slots
        self.admitted = time.monotonic()
        self.started: float | None = None
        self.closed = False
        self.chunk: Chunk | None = None
        self.results: dict[str, Array] = {}
        # Chunks of jobs of one kind are reduced by the same formulas, row by row.
        counts = (job.num_samples, job.num_importance_samples, job.marginal_labels)
        self.kind = (resident, self.way, *counts, job.label is None, job.binarize)

    @property
    def next_program(self) -> Program:
        """What the next units run."""
        chunk = self.chunk
        if chunk is None:
            return ENCODE if self.encodes else self.way[0].program
        return ENCODE if chunk.encoded < len(chunk.slots) else chunk.passes[chunk.at].program

    @property
    def units(self) -> int:
        """Units that may run now: 0 once the whole chunk has been taken."""
        chunk = self.chunk
        if chunk is None:
            rows = min(self.job.rows, self._rows_at_once)
            return rows * self.job.copies * (1 if self.encodes else self.job.draws)
        return len(chunk.slots) - chunk.encoded if chunk.encoded < len(chunk.slots) else chunk.total - chunk.drawn

    def _chunk_rows(self) -> int:
        job, resident = self.job, self.resident
        rows = min(
            CHUNK // job.copies // max(1, self._first_draws),
            CHUNK_BYTES // self._slot_bytes,
            _CHUNK_TILES * resident.sizes[-1],
        )
        return max(1, rows)

    @property
    def _slot_bytes(self) -> int:
        """Of a row with all its draws, and with the numbers of the levels that these visit."""
        job = self.job
        draw_bytes = self.resident.walk_bytes + 8 * (job.num_levels or 0)
        return job.copies * (self.resident.slot_bytes + job.draws * draw_bytes)

    @property
    def _first_draws(self) -> int:
        return self.job.draws if self.job.target_standard_error is None else PILOT_DRAWS

    def begin(self, slots: Slots) -> None:
        """Put the first or the next rows of the job into slots."""
        job, first = self.job, 0 if self.chunk is None else self.chunk.first + self.chunk.rows
        rows = min(job.rows - first, self._rows_at_once)
        numbers = slots.acquire(rows * job.copies)
        encoded = 0 if self.encodes else len(numbers)
        self.chunk = chunk = Chunk(first, rows, numbers, encoded, 0, pilot=False, samples=job.num_samples)
        chunk.unsettled = len(numbers) - encoded
        pilot = job.target_standard_error is not None
        way = passes(job, self.resident.levels, pilot=True) if pilot else self.way
        chunk.begin_draws(self._first_draws, way, slots, pilot=pilot)
        chunk.visits = self.visits(chunk)
        for name in job.maps:
            chunk.maps[name] = np.zeros((len(numbers), *self.resident.generator.event_shape))
        self._fill(chunk, slots)

    def _fill(self, chunk: Chunk, slots: Slots) -> None:
        job, at = self.job, slice(chunk.first, chunk.first + chunk.rows)
        # One row by its number: numpy takes ten times as long with an array of one.
        alone = len(chunk.slots) == 1
        where = chunk.slots[0] if alone else chunk.slots
        slots.seed[where] = job.seed
        places = 0 if alone else np.arange(len(chunk.slots), dtype=np.uint64) // np.uint64(job.copies)
        slots.index[where] = job.first_index + at.start + places
        if job.x is not None:
            x = job.x[at] if job.binarize is None else self._binarized(at)
            slots.write_rows(where, x if job.copies == 1 else np.repeat(x, job.copies, axis=0))
        if job.z is not None:
            table, draws = (slots, where) if slots.walks is None else (slots.walks, chunk.walks)
            table.write("z", draws, job.z[at], np.float32)
        if job.label is not None:
            slots.write("label", where, job.label[at], np.int64)
        elif job.marginal_labels:
            slots.write("label", where, np.tile(np.arange(job.copies), chunk.rows), np.int64)
        elif (null := self.resident.generator.null_label) is not None:
            slots.write("label", where, np.full(len(chunk.slots), null), np.int64)
        if job.verb is Verb.SAMPLE:
            slots.write("temperature", where, np.full((len(chunk.slots), 1), job.temperature, np.float32), np.float32)

    def visits(self, chunk: Chunk) -> Counts | None:
        """The levels that each draw visits, (total, B), of a job that samples levels: u is the draw's own."""
        strata, levels = self.job.num_levels, self.resident.description.levels
        if strata is None or levels is None:
            return None
        items, draws = chunk.units(0, chunk.total)
        index = np.uint64(self.job.first_index + chunk.first) + items.astype(np.uint64) // np.uint64(self.job.copies)
        # Pilots have a u of their own.
        u = uniforms(Keys.of(self.job.seed, index, draws), Stream.LEVELS, 2)[:, int(chunk.pilot)]
        return visited(u, levels.weights, strata)

    def _binarized(self, at: slice) -> Array:
        job = self.job
        assert job.x is not None
        x: Array = job.x[at]
        # Compared in the request's own dtype: 0.5 + 1e-9 is above one half in float64.
        if job.binarize == "threshold":
            return x > 0.5
        index = np.arange(job.first_index + at.start, job.first_index + at.stop, dtype=np.uint64)
        u = uniforms(Keys.of(job.seed, index), Stream.BINARIZATION, x[0].size)
        return u.reshape(x.shape) < x

    def row(self, item: int) -> int:
        """The job's row of an item of the chunk."""
        return (0 if self.chunk is None else self.chunk.first) + item // self.job.copies

    def place(self, row: int) -> str:
        """What a caller calls that row."""
        return f"row {row}" if self.given is None else f"{self.given}[{row}]"

    @property
    def given(self) -> str | None:
        """Which rows the caller gave."""
        return "x" if self.job.x is not None else "z" if self.job.z is not None else None


def work_bytes(job: Job, generator: Generator) -> int:
    """Memory that a job holds outside of slots while it is admitted: inputs, results, and one chunk of draws."""
    event_dims, latent_dim = generator.likelihood.event_dims, generator.latent_dim
    given = sum(array.nbytes for array in (job.x, job.z) if array is not None)
    drawn = job.rows * job.draws * latent_dim * 4 if job.verb == "encode" else 0
    mapped = (job.rows + min(job.rows * job.copies, CHUNK)) * event_dims * 8 * len(job.maps)
    # q(z|x) of a chain has as many numbers as x.
    described = 16 * latent_dim if generator.levels and job.verb is Verb.ENCODE else 0
    columns = job.rows * (512 + described + 8 * generator.levels * job.kl_per_level)
    samples = job.rows * event_dims * (8 + 4 * len(job.trajectory)) if job.verb == "sample" else 0
    held = min(job.row_draws, CHUNK) * (latent_dim * 8 + 64 + 8 * generator.levels * job.kl_per_level)
    return given + drawn + mapped + columns + samples + held
