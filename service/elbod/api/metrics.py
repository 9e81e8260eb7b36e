"""Prometheus metrics of all workers together.

A request appends a few small tuples; once a second they become metrics, whole histograms at a time. Every worker has
its own files in `PROMETHEUS_MULTIPROC_DIR`, and whichever answers `/metrics` adds them up. No label comes from a
request: verbs, statuses and reasons are ours, and models and versions are the store's, bounded in number.
"""

import asyncio
import logging
import os
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.concurrency import run_in_threadpool

from elbod.api.histograms import Histogram, decades
from elbod.api.logs import lines
from elbod.api.worker_files import has_room
from elbod.engine.compute import Compute
from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Array, Job, Result, Scores
from elbod.engine.residents import Residents
from elbod.errors import StartupError

logger = logging.getLogger(__name__)

FLUSH_EVERY = 1.0
# More versions than these share the label `other`: a store may hold any number of them.
MOST_VERSIONS = 200

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)
# Per event dimension an ELBO is of order one for any model, discrete or a density; of either sign.
_NATS_PER_DIM = (*(-bound for bound in reversed(decades(0.01, 10))), 0.0, *decades(0.01, 10))
_NATS = decades(0.1, 10_000)

_VERBS = {"/sample": "sample", "/encode": "encode", "/elbo": "elbo"}
OTHER = "other"


class _Ended(NamedTuple):
    verb: str
    status: int
    seconds: float
    problem: str | None


class _Answered(NamedTuple):
    verb: str
    rows: int
    queue_seconds: float
    compute_seconds: float
    model: ModelDescription
    elbo: Array | None
    kl: Array | None


class Metrics:
    """The metrics of one worker. All but `text` is called on the event loop."""

    def __init__(self, engine: Compute, residents: Residents, ready: Callable[[], bool]) -> None:
        """Raises StartupError if their files have no room."""
        self._engine, self._residents, self._ready = engine, residents, ready
        self._ended: list[_Ended] = []
        self._answered: list[_Answered] = []
        self._encoded: list[tuple[str, float]] = []
        self._versions: set[tuple[str, str]] = set()
        self._told: Tally[tuple[str, ...]] = Tally()
        self._complained = False
        # What a scrape adds up; beyond one machine there are other ways to ask all workers.
        self.gather: Callable[[], CollectorRegistry] = self._all_workers
        if not has_room():
            raise StartupError("the disk of the metrics' files is full")
        self.registry = registry = CollectorRegistry()
        # How gauges of several workers become one, by name.
        self.modes: dict[str, str] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"elbod_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, mode: str, *labels: str) -> Gauge:
            self.modes[f"elbod_{name}"] = mode
            return Gauge(f"elbod_{name}", text, labels, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"elbod_{name}", text, labels, registry=registry, buckets=buckets)

        self._requests = counter("requests", "Requests by how they ended.", "verb", "status")
        self._rejects = counter("rejects", "Requests that ended as a problem, by its title.", "reason")
        self._rows = counter("rows", "Rows answered.", "verb")
        self._seconds = histogram("request_seconds", "Time of a request in each phase.", _SECONDS, "verb", "phase")
        self._elbo = histogram(
            "elbo_nats_per_dim", "ELBO of a row over its event dimensions.", _NATS_PER_DIM, "model", "version"
        )
        self._kl = histogram("kl_nats", "KL divergence of a row's q(z|x) to the prior.", _NATS, "model", "version")
        self._work = {
            "tiles": counter("tiles", "Tiles run.", "stage"),
            "units": counter("tile_units", "Rows or draws in the tiles run.", "stage"),
            "places": counter("tile_places", "Places of the tiles run: units and padding.", "stage"),
        }
        self._cancelled_rows = counter("cancelled_rows", "Rows of requests that were given up.")
        self._loads = {
            "loads": counter("loads", "Versions loaded."),
            "load_failures": counter("load_failures", "Versions that could not be loaded."),
            "swaps": counter("swaps", "References that moved to another version while they served."),
            "evictions": counter("evictions", "Versions forgotten to make room."),
        }
        self._dropped_lines = counter("log_lines_dropped", "Lines of the log that could not be written.")
        self._queue_row_draws = gauge("queue_row_draws", "Row-draws admitted and not answered.", "livesum")
        self._queue_bytes = gauge("queue_bytes", "Bytes admitted and not answered.", "livesum")
        self._row_draws_limit = gauge("queue_row_draws_limit", "Row-draws that are admitted at most.", "livesum")
        self._bytes_limit = gauge("queue_bytes_limit", "Bytes that are admitted at most.", "livesum")
        self._resident_memory = gauge("resident_memory_bytes", "Memory of each worker.", "liveall")
        self._loaded_models = gauge("loaded_models", "Versions loaded in the worker with the most.", "livemax")
        self._model_bytes = gauge("model_bytes", "Weights of a loaded version.", "livemax", "model", "version")
        self._workers = gauge("workers", "Workers alive.", "livesum")
        self._ready_workers = gauge("ready_workers", "Workers that are ready.", "livesum")
        counter("worker_starts", "Workers started, replacements included.").inc()
        self._workers.set(1)
        self.flush()

    def ended(self, path: str, status: int, seconds: float, problem: str | None) -> None:
        """A request is over; `problem` is the slug of the problem's title."""
        self._ended.append(_Ended(_VERBS.get(path, OTHER), status, seconds, problem))

    def answered(self, job: Job, model: ModelDescription, result: Result) -> None:
        """A job has its result."""
        columns = result.value.columns if isinstance(result.value, Scores) else {}
        times = result.queue_seconds, result.compute_seconds
        self._answered.append(
            _Answered(job.verb.value, job.rows, *times, model, columns.get("elbo"), columns.get("kl"))
        )

    def encoded(self, job: Job, seconds: float) -> None:
        """An answer has been written as bytes."""
        self._encoded.append((job.verb.value, seconds))

    async def flush_regularly(self) -> None:
        """Once a second, until it is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            self.flush()

    def flush(self) -> None:
        """Turn what was noted since the last time into metrics; without room for them it is lost, and no more."""
        ended, self._ended = self._ended, []
        answered, self._answered = self._answered, []
        encoded, self._encoded = self._encoded, []
        if not has_room():
            self._complain()
            return
        self._flush_requests(ended)
        self._flush_answers(answered)
        seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        for request in ended:
            if request.verb != OTHER:
                seconds[request.verb, "total"].append(request.seconds)
        for answer in answered:
            seconds[answer.verb, "queue"].append(answer.queue_seconds)
            seconds[answer.verb, "compute"].append(answer.compute_seconds)
        for verb, spent in encoded:
            seconds[verb, "encode"].append(spent)
        for labels, values in seconds.items():
            self._seconds.labels(*labels).observe_many(np.array(values))
        self._flush_counters()
        self._flush_gauges()

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            logger.error("the disk of the metrics' files is full: metrics stand still")

    def _flush_requests(self, ended: list[_Ended]) -> None:
        for (verb, status), count in Tally((request.verb, request.status) for request in ended).items():
            self._requests.labels(verb, str(status)).inc(count)
        for reason, count in Tally(request.problem for request in ended if request.problem is not None).items():
            self._rejects.labels(reason).inc(count)

    def _flush_answers(self, answered: list[_Answered]) -> None:
        rows: Tally[str] = Tally()
        elbo: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
        kl: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
        for answer in answered:
            rows[answer.verb] += answer.rows
            labels = self._labels(answer.model)
            if answer.elbo is not None:
                elbo[labels].append(answer.elbo / answer.model.likelihood.event_dims)
            if answer.kl is not None:
                kl[labels].append(answer.kl)
        for verb, count in rows.items():
            self._rows.labels(verb).inc(count)
        for histogram, found in ((self._elbo, elbo), (self._kl, kl)):
            for labels, arrays in found.items():
                histogram.labels(*labels).observe_many(np.concatenate(arrays))

    def _flush_counters(self) -> None:
        work, loads = self._engine.counters, self._residents.counters
        for name, metric in self._work.items():
            for stage, total in list(getattr(work, name).items()):
                metric.labels(stage.value).inc(self._grown((name, stage.value), total))
        for name, metric in self._loads.items():
            metric.inc(self._grown((name,), getattr(loads, name)))
        self._dropped_lines.inc(self._grown(("log_lines_dropped",), lines.dropped))
        self._cancelled_rows.inc(self._grown(("cancelled_rows",), work.cancelled_rows))

    def _grown(self, key: tuple[str, ...], total: int) -> int:
        grown = total - self._told[key]
        self._told[key] = total
        return grown

    def _flush_gauges(self) -> None:
        row_draws, size = self._engine.queued
        self._queue_row_draws.set(row_draws)
        self._queue_bytes.set(size)
        self._row_draws_limit.set(self._engine.admission.limits.max_queue_rows)
        self._bytes_limit.set(self._engine.admission.limits.max_queue_bytes)
        self._resident_memory.set(_resident_memory())
        self._ready_workers.set(self._ready())
        loaded = self._residents.loaded()
        self._loaded_models.set(len(loaded))
        sizes: Tally[tuple[str, str]] = Tally()
        for resident in loaded:
            sizes[self._labels(resident.description)] += resident.nbytes
        for labels in self._versions | sizes.keys():
            self._model_bytes.labels(*labels).set(sizes[labels])

    def _labels(self, model: ModelDescription) -> tuple[str, str]:
        labels = model.name, str(model.version)
        if labels not in self._versions:
            if len(self._versions) >= MOST_VERSIONS:
                return OTHER, OTHER
            self._versions.add(labels)
        return labels

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all workers and their media type; those of the others are up to a second old."""
        self.flush()
        encode, media_type = choose_encoder(accept)
        return await run_in_threadpool(lambda: encode(self.gather())), media_type

    def _all_workers(self) -> CollectorRegistry:
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is None:  # an application without a supervisor
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry, folder)
        return registry


def _resident_memory() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
