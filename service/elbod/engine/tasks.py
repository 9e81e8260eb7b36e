"""The progress of one job through the stages. Lives on the compute thread alone.

A job is worked in chunks of rows, so that its draws never take more memory than a chunk's; a chunk is encoded, drawn
(twice, if a pilot decides how often), and reduced to one number a row before the next begins.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elbod.engine.columns import MAY_BE_UNDEFINED
from elbod.engine.jobs import PILOT_DRAWS, Array, Encodings, Job, Result, Samples, Scores, Stage, Verb
from elbod.engine.loading import Resident
from elbod.engine.reductions import Counts, elbo_columns, encode_columns, needed_samples, work_bytes
from elbod.engine.runner import PARAMETER, DrawInputs, Outputs, Source, latent_noise, row_dtype
from elbod.errors import InvalidInput, ModelFailure
from elbod.generators.noise import Keys, Stream, uniforms

# Row-draws held at once by one job, and bytes of q(z|x): a hierarchy's are whole images of features.
CHUNK = 4096
CHUNK_BYTES = 64 * 1024**2

# Units whose noise a job of many draws at once: several tiles', since a vectorised call costs much and a number little.
_NOISE_AHEAD = 512
# A tile's output is kept as a view where that holds on to little memory of others.
_VIEWED_BYTES = 1024**2
# Chunks of more units than this gain nothing from being reduced beside others.
_REDUCED_TOGETHER = 256


class Task:
    """One admitted job: which units come next, where results go."""

    __slots__ = (
        "_ahead",
        "_ahead_start",
        "_binarized",
        "_chunk_rows",
        "_drawings",
        "_drawn",
        "_draws",
        "_encoded",
        "_encodes",
        "_encodings",
        "_ends",
        "_first",
        "_item_draws",
        "_items",
        "_kept",
        "_map",
        "_pilot",
        "_results",
        "_rows",
        "_samples",
        "_samples_kl",
        "_total",
        "_x",
        "admitted",
        "closed",
        "deliver",
        "job",
        "kind",
        "resident",
        "size",
        "started",
    )

    def __init__(self, job: Job, resident: Resident, deliver: Callable[..., None]) -> None:
        self.job, self.resident, self.deliver = job, resident, deliver
        self.admitted = time.monotonic()
        self.started: float | None = None
        # Answered, failed or cancelled: guarded by the engine.
        self.closed = False
        self.size = work_bytes(job, resident.generator, CHUNK)
        self._encodes = job.x is not None
        # Under a marginal over labels closed-form terms would bias the bound up.
        self._samples_kl = resident.generator.kl_estimator != "closed_form" or job.marginal_labels > 0
        self._kept = _KEPT[job.verb] | _DRAWN[job.output] | ({"expected_map"} if job.reconstruction_map else set())
        # Chunks of tasks of one kind are reduced by the same formulas, row by row.
        counts = (job.num_samples, job.num_importance_samples, job.marginal_labels)
        self.kind = (resident, job.verb, *counts, job.label is None, job.binarize, job.output, job.x is None)
        self._results: Outputs = {}
        draws = job.draws if job.target_standard_error is None else PILOT_DRAWS
        rows = min(CHUNK // job.copies // max(1, draws), CHUNK_BYTES // (resident.row_bytes * job.copies))
        self._chunk_rows = max(1, rows)
        self._begin(0)

    def _begin(self, first_row: int) -> None:
        job = self.job
        self._first = first_row
        self._rows = min(job.rows - first_row, self._chunk_rows)
        # A row under each of the labels that are marginalised over is an item; items of a row are contiguous.
        self._items = self._rows * job.copies
        self._encoded = 0
        self._encodings: Outputs = {}
        # Filled tile by tile on the compute thread: a chunk's noise takes long, and the job may not be admitted.
        self._x = (
            None if job.x is None else np.empty((self._rows, *job.x.shape[1:]), row_dtype(self.resident.generator))
        )
        self._binarized = 0
        self._samples: Counts | int = job.num_samples
        piloted = job.target_standard_error is not None
        self._begin_draws(PILOT_DRAWS if piloted else job.draws, pilot=piloted)

    def _begin_draws(self, draws: Counts | int, *, pilot: bool) -> None:
        """Equally many `draws` a row, or one number a row."""
        self._pilot = pilot
        self._draws = draws
        if isinstance(draws, int):
            self._total = self._items * draws
        else:
            self._item_draws = np.repeat(draws, self.job.copies)
            self._ends = np.cumsum(self._item_draws)
            self._total = int(self._ends[-1])
        self._drawn = 0
        self._drawings: Outputs = {}
        self._ahead: Array | None = None
        self._ahead_start = 0
        # Summed draw by draw, since a map a draw would not fit into memory.
        mapped = self.job.reconstruction_map and not pilot
        self._map = np.zeros((self._items, *self.resident.generator.event_shape)) if mapped else None

    def _binarize(self, stop: int) -> Array:
        """The chunk's rows, of which those below `stop` are ready to be encoded."""
        assert self.job.x is not None
        assert self._x is not None
        if stop > self._binarized:
            rows = np.arange(self._binarized, min(self._rows, max(stop, self._binarized + _NOISE_AHEAD)))
            # Compared in the request's own dtype: 0.5 + 1e-9 is above one half in float64.
            x = self.job.x[self._first + self._binarized : self._first + len(rows) + self._binarized]
            if self.job.binarize == "threshold":
                x = x > 0.5
            elif self.job.binarize == "stochastic":
                keys = Keys.of(self.job.seed, self._index(rows))
                u = uniforms(keys, Stream.BINARIZATION, self.resident.generator.likelihood.event_dims)
                x = u.reshape(x.shape) < x
            self._x[rows[0] : rows[-1] + 1] = x
            self._binarized += len(rows)
        return self._x

    def _index(self, rows: NDArray[Any]) -> NDArray[np.uint64]:
        return np.uint64(self.job.first_index + self._first) + rows.astype(np.uint64)

    @property
    def stage(self) -> Stage:
        return Stage.ENCODE if self._encodes and self._encoded < self._items else Stage.DRAW

    @property
    def units(self) -> int:
        """Units left in the present stage of the present chunk."""
        return self._items - self._encoded if self.stage is Stage.ENCODE else self._total - self._drawn

    def fill_rows(self, x: Array, label: NDArray[np.int64]) -> None:
        """The next len(x) rows to encode."""
        items = np.arange(self._encoded, self._encoded + len(x))
        rows = items // self.job.copies
        x[:] = self._binarize(int(rows[-1]) + 1)[rows]
        label[:] = self._labels(items)

    def _labels(self, items: Counts) -> Counts:
        """Zeros where there are none."""
        job = self.job
        if job.label is None:
            return items % job.copies
        given: Counts = job.label[self._first + items]
        return given

    def fill_draws(self, inputs: DrawInputs, at: slice) -> None:
        """The next units to draw, into places `at` of a tile."""
        job = self.job
        items, draws = self._units(self._drawn, at.stop - at.start)
        rows = items // job.copies if job.copies > 1 else items
        inputs.label[at] = self._labels(items)
        inputs.seed[at] = job.seed
        inputs.index[at] = self._index(rows)
        inputs.draw[at] = draws
        inputs.temperature[at] = job.temperature
        if job.z is not None:
            inputs.source[at] = Source.GIVEN
            inputs.z[at] = job.z[self._first + rows]
        elif self._x is None:
            inputs.source[at] = Source.PRIOR
        else:
            inputs.source[at] = Source.PILOT if self._pilot else Source.POSTERIOR
            for name, values in self._encodings.items():
                if name.startswith(PARAMETER):
                    key = name.removeprefix(PARAMETER)
                    if key not in inputs.parameters:
                        # Ones, not zeros: padding must be a proper distribution too.
                        inputs.parameters[key] = np.ones((len(inputs.seed), *values.shape[1:]), values.dtype)
                    inputs.parameters[key][at] = values[items]
        if inputs.source[at.start] != Source.GIVEN:
            self._fill_noise(inputs, at)
        if job.verb is Verb.ELBO:
            assert self._x is not None
            inputs.x[at] = self._x[rows]
            inputs.wants |= {"score", "map"} if job.reconstruction_map and not self._pilot else {"score"}
            if job.num_importance_samples or self._samples_kl:
                inputs.wants.add("weights")
        elif job.verb is Verb.ENCODE and self._samples_kl:
            inputs.wants.add("weights")
        elif job.verb is Verb.SAMPLE:
            inputs.wants.add(job.output)
            inputs.sampled[at] = job.output == "sample"

    def _fill_noise(self, inputs: DrawInputs, at: slice) -> None:
        """Noise for several tiles ahead; what is left for one tile the runner draws together with its neighbours'."""
        count, source = at.stop - at.start, Source(inputs.source[at.start])
        if self._ahead is None or self._drawn + count > self._ahead_start + len(self._ahead):
            if self._total - self._drawn <= count:
                return
            ahead = min(max(_NOISE_AHEAD, count), self._total - self._drawn)
            items, draws = self._units(self._drawn, ahead)
            keys = Keys.of(self.job.seed, self._index(items // self.job.copies), draws)
            self._ahead, self._ahead_start = latent_noise(self.resident.generator, source, keys), self._drawn
        start = self._drawn - self._ahead_start
        inputs.noise.append((source, at, self._ahead[start : start + count]))

    def _units(self, start: int, count: int) -> tuple[Counts, Counts]:
        """(item of the chunk, draw) of the units from `start` on."""
        units = np.arange(start, start + count)
        if isinstance(self._draws, int):
            return (units, np.zeros(count, np.int64)) if self._draws == 1 else np.divmod(units, self._draws)
        items = np.searchsorted(self._ends, units, side="right")
        return items, units - (self._ends - self._item_draws)[items]

    def accept(self, stage: Stage, outputs: Mapping[str, Array], at: slice) -> bool:
        """Take the outputs at places `at` of a tile; True when the chunk is complete and waits to be reduced."""
        count = at.stop - at.start
        if stage is Stage.ENCODE:
            self._keep(self._encodings, outputs, at, self._encoded, self._items)
            self._encoded += count
        else:
            self._keep(self._drawings, outputs, at, self._drawn, self._total)
            if self._map is not None:
                items, draws = self._units(self._drawn, count)
                samples = self._samples
                counted = draws < (samples if isinstance(samples, int) else samples[items // self.job.copies])
                np.add.at(self._map, items[counted], outputs["reconstruction_map"][at][counted])
            self._drawn += count
        if self.units:
            return False
        if self._pilot:
            self._end_pilot()
            return False
        return True

    def _keep(self, kept: Outputs, outputs: Mapping[str, Array], at: slice, start: int, total: int) -> None:
        count = at.stop - at.start
        for name, values in outputs.items():
            # A shared tile holds what its other jobs asked for, too.
            if name not in self._kept and not name.startswith(PARAMETER):
                continue
            if count == total and values.nbytes <= _VIEWED_BYTES:
                kept[name] = values[at]
                continue
            if name not in kept:
                kept[name] = np.empty((total, *values.shape[1:]), values.dtype)
            kept[name][start : start + count] = values[at]

    def _end_pilot(self) -> None:
        target = self.job.target_standard_error
        assert target is not None
        samples = needed_samples(self._encodings | self._drawings, target, self.job, self.resident)
        self._samples = samples
        self._begin_draws(np.maximum(samples, self.job.num_importance_samples), pilot=False)

    @property
    def small(self) -> bool:
        """Whether the chunk gains from being reduced beside others of its kind."""
        even = self.job.target_standard_error is None and self._map is None
        return even and max(self._total, self._items) <= _REDUCED_TOGETHER

    @property
    def chunk_rows(self) -> int:
        """Rows of the present chunk."""
        return self._rows

    def chunk(self) -> Outputs:
        """What the tiles gave for the present chunk."""
        chunk = self._encodings | self._drawings
        if self._map is not None:
            counts = np.repeat(self._samples, self._items if isinstance(self._samples, int) else self.job.copies)
            chunk["reconstruction_map"] = self._map / counts.reshape(-1, *[1] * (self._map.ndim - 1))
        return chunk

    def reduce(self, chunk: Outputs) -> Outputs:
        """One number a row of a chunk: the task's own, or of several of its kind."""
        job = self.job
        if job.verb is Verb.SAMPLE:
            return {"z": chunk["z"], "x": chunk[job.output], "undefined": _undefined(chunk)}
        if job.verb is Verb.ENCODE:
            return encode_columns(chunk, job.draws, described=self.resident.description.posterior_closed_form)
        return elbo_columns(chunk, self._samples, self._draws, job, self.resident)

    def take(self, columns: Outputs, *, finite: bool) -> bool:
        """The reduced rows of the present chunk; True when the job is finished. Raises InvalidInput or ModelFailure if
        not `finite` because of these rows.
        """
        if not finite:
            self._check_finite(columns)
        if self._rows == self.job.rows:
            self._results = columns
            return True
        rows = slice(self._first, self._first + self._rows)
        for name, values in columns.items():
            if name not in self._results:
                self._results[name] = np.empty((self.job.rows, *values.shape[1:]), values.dtype)
            self._results[name][rows] = values
        if rows.stop == self.job.rows:
            return True
        self._begin(rows.stop)
        return False

    def _check_finite(self, columns: Outputs) -> None:
        wrong = {name: ~_finite_rows(name, values) for name, values in columns.items()}
        rows = {name: int(np.argmax(at)) for name, at in wrong.items() if at.any()}
        if not rows:
            return
        name = min(rows, key=lambda name: rows[name])
        raise self._not_finite("x" if name == "undefined" else name.replace(PARAMETER, "posterior."), rows[name])

    def _not_finite(self, what: str, row: int) -> InvalidInput | ModelFailure:
        """A row that the caller gave is the caller's to mend; one of the prior is the model's, unless it was heated."""
        job, row = self.job, self._first + row
        message = f"model '{self.resident}' returned a value of {what} that is not finite for {self.place(row)}"
        if (given := self._given) is not None:
            way_out = f"{given}[{row}] lies beyond what the model can compute: check its units, or leave it out"
            return InvalidInput.at(f"/{given}/{row}", f"{message}: {way_out}")
        if job.temperature > 1:
            return InvalidInput.at("/temperature", f"{message} at temperature {job.temperature:g}: lower it")
        return ModelFailure(message)

    @property
    def _given(self) -> Literal["x", "z"] | None:
        """Which rows the caller gave."""
        return "x" if self.job.x is not None else "z" if self.job.z is not None else None

    def row(self, unit: int) -> int:
        """The job's row of a unit of the present stage, counted from the next one."""
        encoding = self.stage is Stage.ENCODE
        item = self._encoded + unit if encoding else int(self._units(self._drawn + unit, 1)[0][0])
        return self._first + item // self.job.copies

    def place(self, row: int) -> str:
        """What a caller calls that row."""
        return f"row {row}" if self._given is None else f"{self._given}[{row}]"

    def result(self) -> Result:
        """The finished job's answer."""
        kept, now = self._results, time.monotonic()
        value: Samples | Encodings | Scores
        if self.job.verb is Verb.SAMPLE:
            value = Samples(x=kept["x"], z=kept["z"])
        elif self.job.verb is Verb.ENCODE:
            value = Encodings(
                family=self.resident.description.posterior_family,
                parameters={n.removeprefix(PARAMETER): v for n, v in kept.items() if n.startswith(PARAMETER)},
                z=kept.get("z"),
                kl=kept.get("kl"),
                kl_per_dimension=kept.get("kl_per_dimension"),
                log_q=kept.get("log_q"),
            )
        else:
            value = Scores({n: v for n, v in kept.items() if n != "reconstruction_map"}, kept.get("reconstruction_map"))
        started = self.started if self.started is not None else now
        return Result(value, started - self.admitted, now - started)


def reduced_together(tasks: Sequence[Task]) -> list[list[Task]]:
    """The tasks by whose chunks `reduce_chunks` takes at once.

    Small chunks of one kind are reduced together: a row's numbers do not know their neighbours, and numpy costs a call
    what it costs for many rows.
    """
    groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.kind if task.small else id(task), []).append(task)
    return list(groups.values())


def reduce_chunks(group: Sequence[Task]) -> list[tuple[Task, Outputs, bool]]:
    """Each task of one kind with its reduced chunk, and whether all numbers are finite that must be."""
    first, chunks = group[0], [task.chunk() for task in group]
    # Some shared a tile with jobs that wanted more. In order: answers list parameters as they come.
    common = [name for name in chunks[0] if all(name in chunk for chunk in chunks)]
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in common if len(group) > 1}
    columns = first.reduce(joined or chunks[0])
    finite = all(_finite_rows(name, values).all() for name, values in columns.items())
    reduced, start = [], 0
    for task in group:
        stop = start + task.chunk_rows
        reduced.append((task, {name: values[start:stop] for name, values in columns.items()}, finite))
        start = stop
    return reduced


def _undefined(chunk: Outputs) -> NDArray[np.bool_]:
    """Rows of samples whose q(z|x) or p(x|z) is not defined: a draw of integers does not show it."""
    found: Array = chunk.get("undefined", np.zeros(len(chunk["z"]), np.bool_))
    for name, values in chunk.items():
        if name.startswith(PARAMETER):
            found = np.logical_or(found, ~_finite_rows(name, values))
    return found


def _finite_rows(name: str, values: Array) -> NDArray[np.bool_]:
    """Which rows of a column have all the numbers that they must have."""
    if name == "undefined":
        return ~values
    if values.dtype.kind != "f":
        return np.ones(len(values), np.bool_)
    fine: Array = ~np.isinf(values) if name in MAY_BE_UNDEFINED else np.isfinite(values)
    if fine.ndim > 1:
        fine = np.logical_and.reduce(fine.reshape(len(fine), -1), axis=1)
    return fine


_LATENT_TERMS = ("log_prior_z", "log_q_z", "kl_z", "expected_log_prior_z", "entropy_z")

# What a job keeps of a tile's outputs until its chunk is reduced.
_KEPT = {
    Verb.SAMPLE: {"z"},
    Verb.ENCODE: {"z", "kl", "kl_per_dimension", *_LATENT_TERMS},
    Verb.ELBO: {
        "kl",
        "log_prior",
        "entropy",
        "log_evidence",
        "expected_reconstruction",
        "reconstruction",
        *_LATENT_TERMS,
    },
}
_DRAWN = {"sample": {"sample", "undefined"}, "mean": {"mean"}}
