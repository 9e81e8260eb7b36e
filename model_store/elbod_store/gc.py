"""Blobs that nothing names any more, and their deletion.

Named are the blobs of every live version's manifest and of every run's newest entry. Publishing puts blobs first and
names them later, so what is young is left alone; and it puts blobs again that were taken all the same (see `publish`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from elbod_store import runs
from elbod_store.catalogue import look
from elbod_store.errors import NotFound
from elbod_store.objects import Objects
from elbod_store.resolution import load, model_names

GRACE = timedelta(hours=24)

_BLOBS = "blobs/sha256"


@dataclass(frozen=True)
class Garbage:
    """A blob that nothing names."""

    key: str
    size: int
    modified: datetime


def find(objects: Objects, grace: timedelta, now: datetime) -> list[Garbage]:
    """The unnamed blobs that are older than `grace`, in the order of their keys.

    Raises Corrupt or Unsupported if a live manifest or a run cannot be read: what it names is then unknown.
    """
    # Listed first: whatever is named after this was put, or put again, after it, too.
    old = [entry for entry in objects.entries(_BLOBS) if now - entry.modified > grace]
    named = _named(objects)
    return [
        Garbage(entry.key, entry.size, entry.modified) for entry in old if entry.key.rpartition("/")[2] not in named
    ]


def delete(objects: Objects, garbage: Iterable[Garbage], on_deleted: Callable[[Garbage], None]) -> None:
    """Delete each that was not written again since it was found."""
    for blob in garbage:
        try:
            if objects.modified(blob.key) == blob.modified:
                objects.delete(blob.key)
                on_deleted(blob)
        except NotFound:
            continue


def _named(objects: Objects) -> set[str]:
    found: set[str] = set()
    for name in model_names(objects):
        catalogue = look(objects, name)
        for version in catalogue.live:
            found |= {blob.digest for blob in load(objects, name, version, catalogue).blobs}
    for run in runs.run_ids(objects):
        found |= {blob.digest for blob in runs.newest(objects, run).blobs}
    return found
