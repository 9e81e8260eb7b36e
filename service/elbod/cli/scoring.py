"""The engines of one command over many rows, its progress, and the report of scores in words."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from elbod.engine.backends import Backend, open_backend
from elbod.engine.bulk import Bulk, engines_on, open_bulk
from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Array, Job
from elbod.engine.loading import Resident
from elbod.engine.smoketest import load_tested
from elbod.errors import StartupError
from elbod.settings import Settings
from elbod.training.held_out import Rows
from elbod_store import ModelStore

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Session:
    """Models and engines of this process."""

    store: ModelStore
    backend: Backend
    bulk: Bulk
    quiet: bool

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, *, quiet: bool) -> "Iterator[Session]":
        """Its engines use the device up. Raises StartupError and the store's StoreError."""
        backend = open_backend(settings.device)
        store = ModelStore.open(settings.store)
        with open_bulk(backend, engines_on(backend)) as bulk:
            yield cls(store, backend, bulk, quiet)

    def load(self, reference: str) -> Resident:
        """Raises the store's StoreError, and ModelFailure."""
        return load_tested(self.store, self.store.resolve(reference), self.backend)

    def run(self, job: Job, resident: Resident, title: str) -> dict[str, Array]:
        """Columns of all rows, with progress on standard error."""
        with progress(title, job.rows, quiet=self.quiet) as advance:
            return self.bulk.run(job, resident, advance)


@contextmanager
def progress(title: str, rows: int, *, quiet: bool, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A function that is told of rows as they are finished, and shows them on standard error; `done` are already."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        yield _Lines(console, title, rows, done).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=rows, completed=done)
        yield lambda more: bar.advance(task, more)


def labels_of(found: Rows, resident: Resident, rows: int | None) -> NDArray[np.int64]:
    """Class numbers of the first rows. Raises StartupError where there are none to give."""
    if not resident.description.conditional:
        raise StartupError(f"--given-labels: {resident} is not conditional on labels")
    if found.label is None:
        raise StartupError(f"--given-labels: {found.origin} have no labels")
    return found.label[:rows]


class _Lines:
    """A plain line every ten seconds and at the end."""

    def __init__(self, console: Console, title: str, total: int, done: int) -> None:
        self._console, self._title, self._total, self._before = console, title, total, done
        self._done, self._started = done, time.monotonic()
        self._said = self._started

    def advance(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if self._done < self._total and now - self._said < _SECONDS_BETWEEN_LINES:
            return
        self._said = now
        speed = (self._done - self._before) / max(1e-9, now - self._started)
        self._console.print(
            f"{self._title}  {self._done:,}/{self._total:,} rows  {speed:,.0f} rows/s", highlight=False, soft_wrap=True
        )


def origin_of(model: ModelDescription) -> dict[str, Any]:
    """Which model computed, and on what."""
    return {
        "model": str(model),
        "digest": model.digest,
        "fingerprint": model.fingerprint,
        "reproducible": model.reproducible,
    }


def describe(resident: Resident, job: Job, what: str, as_json: bool) -> None:
    """What was done, on standard output: a line for people, an object for programs."""
    said = origin_of(resident.description) | {"seed": job.seed, "rows": job.rows}
    sys.stdout.write(f"{json.dumps(said) if as_json else f'{resident}: {job.rows:,} rows, seed {job.seed}, {what}'}\n")


def print_report(report: dict[str, Any]) -> None:
    """The report for people, on standard output."""
    console = Console(file=sys.stdout)
    for line in _lines(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield f"{report['model']}: {report['rows']}" + "".join(f", {said}" for said in _conditions(report))
    yield _bound(f"ELBO, S = {report['num_samples']}", report, "elbo", "", "bits_per_dim")
    if report["monte_carlo_standard_error"] is not None:
        yield f"  {'Monte-Carlo error':<20}{report['monte_carlo_standard_error']:12.2f}"
    yield f"  {'reconstruction':<20}{report['reconstruction']:12.2f}"
    yield f"  {'kl':<20}{report['kl']:12.2f}"
    if "iwae" in report:
        yield _bound(f"IWAE, K = {report['num_importance_samples']}", report, "iwae", "iwae_", "iwae_bits_per_dim")
        over = report["share_over_pareto_k_limit"]
        yield f"  median effective sample size {report['median_effective_sample_size']:.1f}" + (
            "" if over is None else f", {over:.1%} of rows over the Pareto k limit"
        )
    if "log_evidence" in report:
        yield _bound("exact log p(x)", report, "log_evidence", "log_evidence_", None)
    if "share_atypical" in report:
        yield f"  {report['share_atypical']:.1%} of rows have typicality < 0.05"
    if (against := report.get("against")) is not None:
        yield f"against {against['model']}, the same rows and noise:"
        for name in ("elbo", "iwae"):
            if name in against:
                found = against[name]
                yield (
                    f"  {name:<20}{found['mean']:+12.3f} ± {_number(found['standard_error'])} nats, "
                    f"better on {found['wins']:,} of {found['n']:,} rows"
                )
    for direction, scores in report.get("flips", {}).items():
        yield f"{direction} flips, AUROC by score (0.5 tells nothing):"
        for name, area in scores.items():
            failure = "   ranks flips as more like the data" if area["auroc"] < 0.5 else ""
            yield f"  {name:<20}{area['auroc']:12.3f} ± {_number(area['standard_error'])}{failure}"


def _conditions(report: dict[str, Any]) -> Iterator[str]:
    """What makes these scores differ from others of the model."""
    if report["conditional_on"]:
        yield "given their labels"
    if report["num_steps"]:
        yield f"in {report['num_steps']} steps"
    if report["num_levels"]:
        yield f"{report['num_levels']} sampled levels a draw"


def _bound(title: str, report: dict[str, Any], key: str, prefix: str, bits: str | None) -> str:
    line = f"  {title:<20}{report[key]:12.2f} ± {_number(report[f'{prefix}standard_error'], 2)} nats"
    return line if bits is None or report[bits] is None else f"{line}   {report[bits]:.4f} bits/dim"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
