"""The progress of one job through the stages. Lives on the compute thread alone.

A job is worked in chunks of rows, so that its draws never take more memory than a chunk's; a chunk is encoded, drawn,
and reduced to one number a row before the next begins.
"""

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elbod.engine.jobs import Array, Encodings, Floats, Job, Result, Samples, Scores, Stage, Verb
from elbod.engine.loading import Resident
from elbod.engine.runner import PARAMETER, DrawInputs, Outputs, Source, row_dtype
from elbod.errors import ModelFailure
from elbod.generators.bounds import PriorTerms, bits_per_dim, elbo, importance_weighted
from elbod.generators.noise import Keys, Stream, uniforms

# Row-draws held at once by one job.
_CHUNK = 4096


class Task:
    """One admitted job: which units come next, where results go."""

    def __init__(self, job: Job, resident: Resident, future: "Future[Result]") -> None:
        self.job, self.resident, self.future = job, resident, future
        self.admitted = time.monotonic()
        self.started: float | None = None
        self._encodes = job.x is not None
        self._samples_kl = resident.generator.kl_estimator == "monte_carlo"
        self._kept = _KEPT[job.verb] | {job.output} | ({"reconstruction_map"} if job.reconstruction_map else set())
        self._results: Outputs = {}
        self._begin(0)

    def _begin(self, first_row: int) -> None:
        job = self.job
        self._first = first_row
        self._rows = min(job.rows - first_row, max(1, _CHUNK // max(1, job.draws)))
        self._encoded = self._drawn = 0
        self._chunk: Outputs = {}
        self._x = self._binarized() if job.x is not None else None

    def _binarized(self) -> Array:
        assert self.job.x is not None
        x = self.job.x[self._first : self._first + self._rows].astype(row_dtype(self.resident.generator), copy=False)
        if self.job.binarize == "threshold":
            return (x > 0.5).astype(x.dtype)
        if self.job.binarize == "stochastic":
            keys = Keys.of(self.job.seed, self._index(np.arange(self._rows)))
            u = uniforms(keys, Stream.BINARIZATION, self.resident.generator.likelihood.event_dims)
            return (u.reshape(x.shape) < x).astype(x.dtype)
        return x

    def _index(self, rows: NDArray[Any]) -> NDArray[np.uint64]:
        return np.uint64(self.job.first_index + self._first) + rows.astype(np.uint64)

    @property
    def stage(self) -> Stage:
        return Stage.ENCODE if self._encodes and self._encoded < self._rows else Stage.DRAW

    @property
    def units(self) -> int:
        """Units left in the present stage of the present chunk."""
        return self._rows - self._encoded if self.stage is Stage.ENCODE else self._rows * self.job.draws - self._drawn

    def fill_rows(self, x: Array) -> None:
        """The next len(x) rows to encode."""
        assert self._x is not None
        x[:] = self._x[self._encoded : self._encoded + len(x)]

    def fill_draws(self, inputs: DrawInputs, at: slice) -> None:
        """The next units to draw, into places `at` of a tile."""
        job = self.job
        units = np.arange(self._drawn, self._drawn + at.stop - at.start)
        rows = units // job.draws
        inputs.seed[at] = job.seed
        inputs.index[at] = self._index(rows)
        inputs.draw[at] = units % job.draws
        inputs.temperature[at] = job.temperature
        if job.z is not None:
            inputs.source[at] = Source.GIVEN
            inputs.z[at] = job.z[self._first + rows]
        elif self._x is None:
            inputs.source[at] = Source.PRIOR
        else:
            inputs.source[at] = Source.POSTERIOR
            for name, values in self._chunk.items():
                if name.startswith(PARAMETER):
                    key = name.removeprefix(PARAMETER)
                    if key not in inputs.parameters:
                        # Ones, not zeros: padding must be a proper distribution too.
                        inputs.parameters[key] = np.ones((len(inputs.seed), *values.shape[1:]), values.dtype)
                    inputs.parameters[key][at] = values[rows]
        if job.verb is Verb.ELBO:
            assert self._x is not None
            inputs.x[at] = self._x[rows]
            inputs.wants |= {"score", "map"} if job.reconstruction_map else {"score"}
            if job.num_importance_samples or self._samples_kl:
                inputs.wants.add("weights")
        elif job.verb is Verb.ENCODE and self._samples_kl:
            inputs.wants.add("weights")
        elif job.verb is Verb.SAMPLE:
            inputs.wants.add(job.output)
            inputs.sampled[at] = job.output == "sample"

    def accept(self, stage: Stage, outputs: Mapping[str, Array], at: slice) -> bool:
        """Take the outputs at places `at` of a tile; True when the job is finished."""
        count = at.stop - at.start
        if stage is Stage.ENCODE:
            self._keep(outputs, at, self._encoded, self._rows)
            self._encoded += count
        else:
            self._keep(outputs, at, self._drawn, self._rows * self.job.draws)
            self._drawn += count
        if self.units:
            return False
        self._reduce()
        if self._first + self._rows < self.job.rows:
            self._begin(self._first + self._rows)
            return False
        return True

    def _keep(self, outputs: Mapping[str, Array], at: slice, start: int, total: int) -> None:
        for name, values in outputs.items():
            # A shared tile holds what its other jobs asked for, too.
            if name not in self._kept and not name.startswith(PARAMETER):
                continue
            if name not in self._chunk:
                self._chunk[name] = np.empty((total, *values.shape[1:]), values.dtype)
            self._chunk[name][start : start + at.stop - at.start] = values[at]

    def _reduce(self) -> None:
        """Reduce the chunk to its rows' results."""
        rows = slice(self._first, self._first + self._rows)
        reduced = {Verb.SAMPLE: self._sample, Verb.ENCODE: self._encode, Verb.ELBO: self._elbo}[self.job.verb]()
        for name, values in reduced.items():
            self._check_finite(name, values)
            if name not in self._results:
                self._results[name] = np.empty((self.job.rows, *values.shape[1:]), values.dtype)
            self._results[name][rows] = values

    def _sample(self) -> Outputs:
        return {"z": self._chunk["z"], "x": self._chunk[self.job.output]}

    def _encode(self) -> Outputs:
        kept = {name: values for name, values in self._chunk.items() if name.startswith((PARAMETER, "kl"))}
        if self.job.draws:
            kept["z"] = self._chunk["z"].reshape(self._rows, self.job.draws, -1)
            if self._samples_kl:
                kept["kl"] = self._sampled_terms(self.job.draws).kl.mean(axis=1)
        return kept

    def _sampled_terms(self, draws: int) -> PriorTerms:
        """k_s = log q(z_s|x) - log p(z_s), c_s and h_s of the first draws."""
        log_prior, log_q = (
            self._chunk[name].reshape(self._rows, self.job.draws)[:, :draws] for name in ("log_prior_z", "log_q_z")
        )
        return PriorTerms(kl=log_q - log_prior, log_prior=log_prior, entropy=-log_q)

    def _prior_terms(self) -> PriorTerms:
        if self._samples_kl:
            return self._sampled_terms(self.job.num_samples)
        return PriorTerms(*(self._chunk[name][:, None] for name in ("kl", "log_prior", "entropy")))

    def _elbo(self) -> Outputs:
        job, chunk, likelihood = self.job, self._chunk, self.resident.generator.likelihood
        per_draw = chunk["reconstruction"].reshape(self._rows, job.draws)
        bound = elbo(per_draw[:, : job.num_samples], self._prior_terms())
        columns: dict[str, Floats] = {
            "elbo": bound.elbo,
            "standard_error": bound.standard_error,
            "reconstruction": bound.reconstruction,
            "kl": bound.kl,
            "log_joint": bound.log_joint,
            "entropy": bound.entropy,
        }
        if likelihood.measure == "pmf":
            columns["bits_per_dim"] = bits_per_dim(bound.elbo, likelihood.event_dims)
        if job.num_importance_samples:
            log_weights = chunk["reconstruction"] + chunk["log_prior_z"] - chunk["log_q_z"]
            weighted = importance_weighted(log_weights.reshape(self._rows, job.draws)[:, : job.num_importance_samples])
            columns |= {
                "iwae": weighted.iwae,
                "iwae_standard_error": weighted.iwae_standard_error,
                "effective_sample_size": weighted.effective_sample_size,
                "pareto_k": weighted.pareto_k,
                "gap": weighted.gap,
                "gap_standard_error": weighted.gap_standard_error,
            }
        if "log_evidence" in chunk:
            columns["log_evidence"] = chunk["log_evidence"]
            columns["gap"] = chunk["log_evidence"] - bound.elbo
            columns["gap_standard_error"] = bound.standard_error
        if job.reconstruction_map:
            elements = chunk["reconstruction_map"].reshape(self._rows, job.draws, -1)[:, : job.num_samples]
            columns["reconstruction_map"] = elements.mean(axis=1).reshape(self._rows, *likelihood.event_shape)
        return columns

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
            )
        else:
            value = Scores({n: v for n, v in kept.items() if n != "reconstruction_map"}, kept.get("reconstruction_map"))
        started = self.started if self.started is not None else now
        return Result(value, started - self.admitted, now - started)


# What a job keeps of a tile's outputs until its chunk is reduced.
_KEPT = {
    Verb.SAMPLE: {"z"},
    Verb.ENCODE: {"z", "kl", "kl_per_dimension", "log_prior_z", "log_q_z"},
    Verb.ELBO: {"kl", "log_prior", "entropy", "log_evidence", "reconstruction", "log_prior_z", "log_q_z"},
}
_MAY_BE_UNDEFINED = {"standard_error", "iwae_standard_error", "pareto_k", "gap_standard_error"}


def work_bytes(job: Job, event_dims: int) -> int:
    """Memory that a job holds while it is admitted: its inputs, its results, and one chunk of draws."""
    given = sum(array.nbytes for array in (job.x, job.z) if array is not None)
    results = job.rows * (event_dims * 4 + 512) + job.rows * job.draws * 4 * (job.verb is Verb.ENCODE)
    return given + results + min(job.row_draws, _CHUNK) * math.ceil(event_dims / 8) * 8
