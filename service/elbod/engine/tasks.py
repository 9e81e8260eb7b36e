"""The progress of one job through the stages. Lives on the compute thread alone.

A job is worked in chunks of rows, so that its draws never take more memory than a chunk's; a chunk is encoded, drawn
(twice, if a pilot decides how often), and reduced to one number a row before the next begins.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elbod.engine.jobs import PILOT_DRAWS, Array, Encodings, Job, Result, Samples, Scores, Stage, Verb
from elbod.engine.loading import Resident
from elbod.engine.reductions import Counts, elbo_columns, encode_columns, needed_samples
from elbod.engine.runner import PARAMETER, DrawInputs, Outputs, Source, row_dtype
from elbod.errors import ModelFailure
from elbod.generators.noise import Keys, Stream, uniforms

# Row-draws held at once by one job, and bytes of q(z|x): a hierarchy's are whole images of features.
CHUNK = 4096
CHUNK_BYTES = 64 * 1024**2


class Task:
    """One admitted job: which units come next, where results go."""

    def __init__(self, job: Job, resident: Resident, future: "Future[Result]") -> None:
        self.job, self.resident, self.future = job, resident, future
        self.admitted = time.monotonic()
        self.started: float | None = None
        self._encodes = job.x is not None
        # Under a marginal over labels closed-form terms would bias the bound up.
        self._samples_kl = resident.generator.kl_estimator != "closed_form" or job.marginal_labels > 0
        self._kept = _KEPT[job.verb] | {job.output}
        self._results: Outputs = {}
        self._begin(0)

    def _begin(self, first_row: int) -> None:
        job = self.job
        self._first = first_row
        piloted = job.target_standard_error is not None
        rows = CHUNK // job.copies // max(1, PILOT_DRAWS if piloted else job.draws)
        row_bytes = self.resident.row_bytes * job.copies
        self._rows = min(job.rows - first_row, max(1, min(rows, CHUNK_BYTES // row_bytes)))
        # A row under each of the labels that are marginalised over is an item; items of a row are contiguous.
        self._items = self._rows * job.copies
        self._encoded = 0
        self._encodings: Outputs = {}
        self._x = self._binarized() if job.x is not None else None
        self._samples: Counts = np.full(self._rows, job.num_samples)
        self._begin_draws(np.full(self._rows, PILOT_DRAWS if piloted else job.draws), pilot=piloted)

    def _begin_draws(self, draws: Counts, *, pilot: bool) -> None:
        self._pilot = pilot
        self._draws, self._item_draws = draws, np.repeat(draws, self.job.copies)
        self._ends = np.cumsum(self._item_draws)
        self._drawn = 0
        self._drawings: Outputs = {}
        # Summed draw by draw, since a map a draw would not fit into memory.
        shape = (
            (self._items, *self.resident.generator.event_shape) if self.job.reconstruction_map and not pilot else (0,)
        )
        self._map = np.zeros(shape)

    def _binarized(self) -> Array:
        assert self.job.x is not None
        # Compared in the request's own dtype: 0.5 + 1e-9 is above one half in float64.
        x = self.job.x[self._first : self._first + self._rows]
        if self.job.binarize == "threshold":
            x = x > 0.5
        elif self.job.binarize == "stochastic":
            keys = Keys.of(self.job.seed, self._index(np.arange(self._rows)))
            u = uniforms(keys, Stream.BINARIZATION, self.resident.generator.likelihood.event_dims)
            x = u.reshape(x.shape) < x
        return x.astype(row_dtype(self.resident.generator), copy=False)

    def _index(self, rows: NDArray[Any]) -> NDArray[np.uint64]:
        return np.uint64(self.job.first_index + self._first) + rows.astype(np.uint64)

    @property
    def stage(self) -> Stage:
        return Stage.ENCODE if self._encodes and self._encoded < self._items else Stage.DRAW

    @property
    def units(self) -> int:
        """Units left in the present stage of the present chunk."""
        return self._items - self._encoded if self.stage is Stage.ENCODE else int(self._ends[-1]) - self._drawn

    def fill_rows(self, x: Array, label: NDArray[np.int64]) -> None:
        """The next len(x) rows to encode."""
        assert self._x is not None
        items = np.arange(self._encoded, self._encoded + len(x))
        x[:] = self._x[items // self.job.copies]
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
        items, draws = self._units(at.stop - at.start)
        rows = items // job.copies
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

    def _units(self, count: int) -> tuple[Counts, Counts]:
        """(item of the chunk, draw) of the next units."""
        units = np.arange(self._drawn, self._drawn + count)
        items = np.searchsorted(self._ends, units, side="right")
        return items, units - (self._ends - self._item_draws)[items]

    def accept(self, stage: Stage, outputs: Mapping[str, Array], at: slice) -> bool:
        """Take the outputs at places `at` of a tile; True when the job is finished."""
        count = at.stop - at.start
        if stage is Stage.ENCODE:
            self._keep(self._encodings, outputs, at, self._encoded, self._items)
            self._encoded += count
        else:
            self._keep(self._drawings, outputs, at, self._drawn, int(self._ends[-1]))
            if len(self._map):
                items, draws = self._units(count)
                counted = draws < self._samples[items // self.job.copies]
                np.add.at(self._map, items[counted], outputs["reconstruction_map"][at][counted])
            self._drawn += count
        if self.units:
            return False
        if self._pilot:
            self._end_pilot()
            return False
        self._reduce()
        if self._first + self._rows < self.job.rows:
            self._begin(self._first + self._rows)
            return False
        return True

    def _keep(self, kept: Outputs, outputs: Mapping[str, Array], at: slice, start: int, total: int) -> None:
        for name, values in outputs.items():
            # A shared tile holds what its other jobs asked for, too.
            if name not in self._kept and not name.startswith(PARAMETER):
                continue
            if name not in kept:
                kept[name] = np.empty((total, *values.shape[1:]), values.dtype)
            kept[name][start : start + at.stop - at.start] = values[at]

    def _end_pilot(self) -> None:
        target = self.job.target_standard_error
        assert target is not None
        self._samples = needed_samples(self._encodings | self._drawings, target, self.job, self.resident)
        self._begin_draws(np.maximum(self._samples, self.job.num_importance_samples), pilot=False)

    def _reduce(self) -> None:
        """Reduce the chunk to its rows' results."""
        chunk, job = self._encodings | self._drawings, self.job
        if job.verb is Verb.SAMPLE:
            reduced = {"z": chunk["z"], "x": chunk[job.output]}
        elif job.verb is Verb.ENCODE:
            reduced = encode_columns(chunk, job.draws, described=self.resident.posterior_closed_form)
        else:
            if len(self._map):
                counts = np.repeat(self._samples, job.copies).reshape(-1, *[1] * (self._map.ndim - 1))
                chunk["reconstruction_map"] = self._map / counts
            reduced = elbo_columns(chunk, self._samples, self._draws, job, self.resident)
        rows = slice(self._first, self._first + self._rows)
        for name, values in reduced.items():
            self._check_finite(name, values)
            if name not in self._results:
                self._results[name] = np.empty((job.rows, *values.shape[1:]), values.dtype)
            self._results[name][rows] = values

    def _check_finite(self, name: str, values: Array) -> None:
        if name in _MAY_BE_UNDEFINED or values.dtype.kind != "f":
            return
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            row = self._first + int(np.argmin(finite))
            place = f"x[{row}]" if self.job.x is not None else f"row {row}"
            model = f"{self.resident.name}@{self.resident.version}"
            raise ModelFailure(f"model {model!r} returned a value of {name} that is not finite for {place}")

    def result(self) -> Result:
        """The finished job's answer."""
        kept, now = self._results, time.monotonic()
        value: Samples | Encodings | Scores
        if self.job.verb is Verb.SAMPLE:
            value = Samples(x=kept["x"], z=kept["z"])
        elif self.job.verb is Verb.ENCODE:
            value = Encodings(
                family=self.resident.posterior_family,
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
_MAY_BE_UNDEFINED = {"standard_error", "iwae_standard_error", "pareto_k", "gap_standard_error"}
