"""Training runs: a log each, whose newest entry names the blobs of the state to go on from.

A state is blobs first, then the entry that names them, so a crash in between costs the new state and never the old one.
The blobs of older states are named by nobody and so become garbage. An entry is created only if the log still ends
where its writer saw it end: of two workers that drive one run the slower one finds the number taken, and stops.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Final

from elbod_store import blobs, log
from elbod_store.canonical import JSON, plain
from elbod_store.errors import Conflict, InvalidDraft, StoreError, Unavailable, UnknownRun
from elbod_store.manifest import MAX_RECORD, SCHEMA, Blob, RunEntry, decode_run, seal
from elbod_store.names import check_run, numbered, run_prefix
from elbod_store.objects import Objects

STEPS: Final = ("start", "blobs", "check", "entry", "confirm", "hint")
"""What `on_step` is told after each step, in this order. From `entry` on the state is the run's."""


@dataclass(frozen=True, kw_only=True)
class RunDraft:
    """An entry to be. `contents` are the safetensors bytes of a new state, `blobs` an older one to go on naming."""

    run: str
    worker: str
    who: str
    data: str
    training: Mapping[str, JSON]
    epoch: int = 0
    step: int = 0
    published: Sequence[int] = ()
    finished: bool = False
    blobs: Sequence[Blob] = ()
    contents: Sequence[bytes] = ()


def append(objects: Objects, draft: RunDraft, expected: int, on_step: Callable[[str], None]) -> RunEntry:
    """See `ModelStore.append_run`."""
    prefix = run_prefix(draft.run)
    on_step("start")
    described = [blobs.put(objects, content) for content in draft.contents]
    on_step("blobs")
    for blob in described:
        if not blobs.present(objects, blob):
            raise Unavailable(f"blob {blob.digest} vanished from {objects.url} right after it was written")
    on_step("check")
    entry = _create(objects, draft, [*draft.blobs, *described], expected + 1)
    on_step("entry")
    for blob, content in zip(described, draft.contents, strict=True):
        # A blob that was already there, old and unnamed, may have been collected since we put it.
        if not blobs.present(objects, blob):
            blobs.put(objects, content)
    on_step("confirm")
    log.write_hint(objects, prefix, entry.number)
    on_step("hint")
    return entry


def newest(objects: Objects, run: str) -> RunEntry:
    """See `ModelStore.run`."""
    number = log.newest(objects, run_prefix(run))
    if number == 0:
        raise UnknownRun(f"there is no run {run!r} in {objects.url}", get_close_matches(run, run_ids(objects)))
    return _read(objects, run, number)


def run_ids(objects: Objects) -> list[str]:
    """Everything under `runs/` whose name could be a run's, in order."""
    found = []
    for child in objects.children("runs"):
        try:
            found.append(check_run(child))
        except StoreError:
            continue
    return found


def _create(objects: Objects, draft: RunDraft, named: Sequence[Blob], number: int) -> RunEntry:
    fields = {
        "schema": SCHEMA,
        "run": draft.run,
        "publish_id": uuid.uuid4().hex,
        "worker": draft.worker,
        "who": draft.who,
        "when": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "finished": draft.finished,
        "data": draft.data,
        "training": plain(draft.training, "training"),
        "epoch": draft.epoch,
        "step": draft.step,
        "published": list(draft.published),
        "blobs": [{"digest": blob.digest, "size": blob.size} for blob in named],
    }
    while True:
        body = seal({**fields, "number": number})
        try:
            entry = decode_run(body, draft.run, number)  # what readers would refuse is never written
        except StoreError as error:
            raise InvalidDraft(f"an entry of the run {draft.run}: {error}") from error
        if log.append(objects, numbered(run_prefix(draft.run), number), body):
            return entry
        if _read(objects, draft.run, number).worker != draft.worker:
            raise Conflict(
                f"the run {draft.run} is driven by another worker, which wrote its entry {number}: this one stops; "
                "what both have published and saved stays"
            )
        # An entry of our own whose answer never arrived.
        number += 1


def _read(objects: Objects, run: str, number: int) -> RunEntry:
    return decode_run(objects.get(numbered(run_prefix(run), number), limit=MAX_RECORD), run, number)
