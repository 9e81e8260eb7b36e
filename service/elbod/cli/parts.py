"""A job whose output is a folder: cut into parts, on this machine or on a Ray cluster, gone on with after an end."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from elbod.cli.scoring import progress
from elbod.engine.bulk import engines_on
from elbod.engine.jobs import Verb
from elbod.errors import StartupError
from elbod.scale.cluster import check_versions, connect
from elbod.scale.output import Output
from elbod.scale.plan import Plan, rows_of_a_part
from elbod.scale.sources import Source, source
from elbod.scale.spread import fingerprint_of, spread
from elbod.scale.work import Place, Worker, load_version
from elbod.settings import Settings
from elbod_store import Manifest, ModelStore


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command was asked for; `fields` are those of the plan that say how rows are worked.

    Of /sample `rows` is how many, of the others the most of `data` that are taken.
    """

    verb: Verb
    model: str
    output: str
    engine: str
    actors: int | None
    part_rows: int | None = None
    rows: int | None = None
    data: str | None = None
    quiet: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A finished job."""

    manifest: Manifest
    plan: Plan
    output: Output
    origin: str
    reproducible: bool

    def describe(self, as_json: bool) -> None:
        """What was done, on standard output: a line for people, an object for programs."""
        plan = self.plan
        said = {
            "model": plan.model,
            "digest": plan.digest,
            "fingerprint": plan.fingerprint,
            "reproducible": self.reproducible,
            "seed": plan.seed,
            "rows": plan.rows,
            "parts": plan.parts,
            "output": self.output.url,
        }
        rows = f"{plan.model}: {plan.rows:,} rows, seed {plan.seed}, {self.origin}"
        sys.stdout.write(f"{json.dumps(said) if as_json else f'{rows}: {plan.parts:,} parts in {self.output.url}'}\n")


def run(request: Request, settings: Settings) -> Done:
    """Finish the job, and report progress. Raises StartupError, InvalidDataset, ModelFailure and StoreError."""
    store = ModelStore.open(settings.store)
    manifest = store.resolve(request.model)
    name = f"{manifest.name}@{manifest.version}"
    rows = _rows(request, manifest)
    total = request.rows or 0 if rows is None else min(rows.rows, request.rows or rows.rows)
    output = Output(_shared(request.output))

    def plan(fingerprint: str) -> Plan:
        return Plan(
            verb=request.verb,
            model=name,
            digest=manifest.digest,
            fingerprint=fingerprint,
            rows=total,
            part_rows=request.part_rows or rows_of_a_part(manifest, request.verb, request.fields),
            data=None if rows is None else rows.identity,
            **request.fields,
        )

    def done(plan: Plan, reproducible: bool) -> Done:
        return Done(manifest, plan, output, "from the prior" if rows is None else rows.origin, reproducible)

    if request.engine == "ray":
        with connect(f"--engine {request.engine}") as cluster:
            Console(stderr=True, quiet=request.quiet).print(str(cluster), highlight=False, soft_wrap=True)
            check_versions(cluster)
            store_url = _shared(settings.store)
            fingerprint, reproducible = fingerprint_of(cluster, store_url, name, manifest.digest, settings.device)
            made = plan(fingerprint)
            place = Place(store_url, settings.device, 1, output.url)
            with _parts(request, made, output) as (todo, advance):
                for finished in spread(cluster, made, todo, rows, place, request.actors):
                    advance(finished)
            return done(made, reproducible)
    loaded = load_version(settings.store, name, manifest.digest, settings.device)
    made = plan(loaded[1].description.fingerprint)
    place = Place(settings.store, settings.device, request.actors or engines_on(loaded[0]), output.url)
    with _parts(request, made, output) as (todo, advance), Worker(made, rows, place, loaded) as worker:
        for part in todo:
            worker.run(part, advance)
    return done(made, loaded[1].description.reproducible)


def _rows(request: Request, manifest: Manifest) -> Source | None:
    if request.verb is Verb.SAMPLE:
        return None
    return source(manifest, request.data, binarized=request.fields.get("binarize") is not None)


@contextlib.contextmanager
def _parts(request: Request, plan: Plan, output: Output) -> Iterator[tuple[list[int], Callable[[int], None]]]:
    """The parts that are left to do, and a function that is told of finished rows; at the end all must be there."""
    finished = output.claim(plan)
    todo = [part for part in range(plan.parts) if part not in finished]
    before = sum(stop - start for start, stop in map(plan.span, finished))
    if finished:
        Console(stderr=True, quiet=request.quiet).print(
            f"{output.url}: {len(finished):,} of {plan.parts:,} parts are there, going on with the others",
            highlight=False,
            soft_wrap=True,
        )
    try:
        with progress(f"{_DOING[plan.verb]} {plan.model}", plan.rows, quiet=request.quiet, done=before) as advance:
            yield todo, advance
    except KeyboardInterrupt:
        typer.echo(
            f"interrupted: {len(output.finished()):,} of {plan.parts:,} parts are in {output.url}; "
            "the same command goes on with the others",
            err=True,
        )
        raise
    missing = set(range(plan.parts)) - output.finished()
    if missing:
        raise StartupError(f"{output.url} lacks {len(missing):,} parts, the first {min(missing)}: run it again")
    output.tidy()


_DOING = {Verb.ELBO: "scoring", Verb.ENCODE: "encoding with", Verb.SAMPLE: "sampling from"}


def _shared(place: str) -> str:
    """The place by a name that other processes understand."""
    if place == "memory://":
        raise StartupError("memory:// lives inside one process: use a store on disk or in S3")
    return place if "://" in place else str(Path(place).absolute())
