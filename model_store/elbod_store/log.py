"""Numbered logs in an object store: append by put-if-absent, find the newest entry.

The versions of a model are one log, and so is each alias. An entry's number is in its key, an entry never changes,
and whoever creates the next number first has it.
"""

import contextlib
import re
import uuid

from elbod_store.errors import Corrupt, NotFound, StoreError, Unavailable
from elbod_store.manifest import MAX_RECORD
from elbod_store.names import MAX_NUMBER, changed_key, numbered
from elbod_store.objects import Objects

TRIES = 2

_ENTRY = re.compile(r"([0-9]{10})\.json")
_MAX_HINT = 64
_HINT = re.compile(rb"[1-9][0-9]{0,9}")


def append(objects: Objects, key: str, body: bytes) -> bool:
    """Create `key` holding `body`. True if the entry is ours, False if the number was taken by another writer.

    An error does not mean that nothing was written, and "already exists" does not mean that another wrote it: a write
    whose answer was lost is retried below us and then meets itself. So whatever the answer, read back and compare;
    `body` holds a random id, so equal bytes are our own. Raises Unavailable, when it stays unknown whether `key`
    exists: calling again with the same body is always safe.
    """
    failure: StoreError = Unavailable(f"{objects.url} refused to create {key} as existing, yet there is none")
    for _ in range(TRIES):
        try:
            if objects.create(key, body):
                return True
        except Unavailable as error:
            failure = error
        try:
            found = objects.get(key, limit=MAX_RECORD)
        except NotFound:
            continue
        except Corrupt:
            return False
        if found == body:
            objects.sync(key)
            return True
        return False
    raise failure


def newest(objects: Objects, prefix: str) -> int:
    """The highest number in the log, 0 if it is empty.

    The hint only says where to start listing. Is it missing or too low, the list is longer; is it too high, the list
    is empty and everything is listed. It is never an answer.
    """
    start = _read_hint(objects, prefix)
    numbers = numbers_after(objects, prefix, start - 1)
    if not numbers and start > 1:
        numbers = numbers_after(objects, prefix, 0)
    return numbers[-1] if numbers else 0


def numbers_after(objects: Objects, prefix: str, number: int) -> list[int]:
    """The numbers in the log that are higher than `number`, ascending. Foreign files are not entries."""
    after = numbered(prefix, number) if number > 0 else None
    keys = objects.list_after(prefix, after)
    matches = (_ENTRY.fullmatch(key.removeprefix(f"{prefix}/")) for key in keys)
    return [number for match in matches if match and (number := int(match[1])) >= 1]


def write_hint(objects: Objects, prefix: str, number: int) -> None:
    """Remember where the log's end was. Failing to is no failure."""
    with contextlib.suppress(StoreError):
        objects.put(f"{prefix}/_last", str(number).encode(), durable=False)


def announce(objects: Objects, name: str) -> None:
    """Tell whoever watches the model to look. Failing to is no failure: they look now and then anyway."""
    with contextlib.suppress(StoreError):
        objects.put(changed_key(name), uuid.uuid4().hex.encode(), durable=False)


def announced(objects: Objects, name: str) -> bytes | None:
    """Another value after every announcement; None if there never was one, or if the object is none of ours."""
    try:
        return objects.get(changed_key(name), limit=_MAX_HINT)
    except (NotFound, Corrupt):
        return None


def _read_hint(objects: Objects, prefix: str) -> int:
    try:
        raw = objects.get(f"{prefix}/_last", limit=_MAX_HINT)
    except (NotFound, Corrupt):
        return 1
    return min(int(raw), MAX_NUMBER) if _HINT.fullmatch(raw) else 1
