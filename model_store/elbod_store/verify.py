"""Everything in a store read and hashed again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from elbod_store import aliases, blobs, runs
from elbod_store.catalogue import Catalogue, look
from elbod_store.errors import NotFound, Retired, StoreError, Unavailable
from elbod_store.manifest import Blob, Manifest
from elbod_store.objects import Objects
from elbod_store.resolution import load, model_names


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what is wrong with it; None if nothing is. `nbytes` were hashed for it."""

    place: str
    problem: str | None
    nbytes: int = 0


def verify(objects: Objects) -> Iterator[Finding]:
    """Every live version with its blobs, every alias with its history, every run's newest state.

    Blobs that several versions share are read once. Raises Unavailable; all else is a finding.
    """
    seen: dict[str, str | None] = {}
    for name in model_names(objects):
        catalogue = look(objects, name)
        for version in catalogue.live:
            yield from _version(objects, name, version, catalogue, seen)
        for alias in sorted(catalogue.aliases):
            yield _checked(f"{name}@{alias}", partial(_alias, objects, name, alias, catalogue))
    for run in runs.run_ids(objects):
        entry = None
        try:
            entry = runs.newest(objects, run)
        except Unavailable:
            raise
        except StoreError as error:
            yield Finding(f"run {run}", str(error))
        if entry is not None:
            yield from _blobs(objects, f"run {run}", entry.blobs, seen)


def _version(
    objects: Objects, name: str, version: int, catalogue: Catalogue, seen: dict[str, str | None]
) -> Iterator[Finding]:
    found: list[Manifest] = []
    yield _checked(f"{name}@{version}", lambda: found.append(load(objects, name, version, catalogue)))
    for manifest in found:
        yield from _blobs(objects, f"{name}@{version}", manifest.blobs, seen)


def _blobs(objects: Objects, place: str, named: tuple[Blob, ...], seen: dict[str, str | None]) -> Iterator[Finding]:
    for blob in named:
        if blob.digest in seen:
            if (problem := seen[blob.digest]) is not None:
                yield Finding(place, problem)
            continue
        finding = _checked(place, partial(blobs.check, objects, blob), blob.size)
        seen[blob.digest] = finding.problem
        yield finding


def _alias(objects: Objects, name: str, alias: str, catalogue: Catalogue) -> None:
    """Raises what is wrong with an alias's log or with the version that it names now."""
    newest = aliases.history(objects, name, alias, catalogue)[-1]
    if newest.version is not None:
        try:
            load(objects, name, newest.version, catalogue)
        except (NotFound, Retired) as error:
            raise NotFound(f"names version {newest.version}, which cannot be served: {error}") from error


def _checked(place: str, look: Callable[[], None], nbytes: int = 0) -> Finding:
    try:
        look()
    except Unavailable:
        raise
    except StoreError as error:
        return Finding(place, str(error), nbytes)
    return Finding(place, None, nbytes)
