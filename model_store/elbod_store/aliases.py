"""Promotion: append to an alias's log, or lose the race and say so.

An alias is a log, its newest entry wins, and an entry is created only if the log still ends where the writer saw it
end. So of two promoters one gets a Conflict, and no update is lost.
"""

import uuid
from datetime import UTC, datetime

from elbod_store import log
from elbod_store.catalogue import Catalogue
from elbod_store.errors import Conflict, Retired, UnknownVersion
from elbod_store.manifest import SCHEMA, AliasEntry, decode_entry, seal
from elbod_store.names import alias_prefix, numbered, trash_key
from elbod_store.objects import Objects
from elbod_store.resolution import load, newest_entry, read_entry, unknown_alias


def promote(
    objects: Objects, name: str, alias: str, version: int, *, expected: int | None, who: str, why: str
) -> AliasEntry:
    """See `ModelStore.promote`; the version was checked to be live and readable."""
    seen = log.newest(objects, alias_prefix(name, alias))
    if expected is not None and expected != seen:
        raise _lost(name, alias, expected)
    entry = _append(objects, name, alias, version, expected=seen, who=who, why=why)
    if objects.exists(trash_key(name, version)):
        # Retired between our check and our entry. The retiring side looks at aliases after its write, as we look at
        # the trash after ours, so at least one of the two notices; we take our entry back.
        before = read_entry(objects, name, alias, seen).version if seen else None
        _append(
            objects, name, alias, before, expected=entry.number, who=who, why=f"undone: {name}@{version} is retired"
        )
        raise Retired(f"{name}@{version} was retired while it was being promoted to {alias!r}")
    return entry


def rollback(
    objects: Objects, name: str, alias: str, catalogue: Catalogue, *, expected: int | None, who: str, why: str
) -> AliasEntry:
    """See `ModelStore.rollback`."""
    entries = history(objects, name, alias, catalogue)
    current = entries[-1]
    if expected is not None and expected != current.number:
        raise _lost(name, alias, expected)
    for entry in reversed(entries):
        if entry.version is not None and entry.version != current.version:
            load(objects, name, entry.version, catalogue)  # raises rather than roll back to what cannot be served
            return promote(objects, name, alias, entry.version, expected=current.number, who=who, why=why)
    raise UnknownVersion(f"{name}@{alias} has no earlier version to go back to: promote one by its number")


def unalias(objects: Objects, name: str, alias: str, catalogue: Catalogue, *, who: str, why: str) -> AliasEntry:
    """See `ModelStore.unalias`."""
    current = newest_entry(objects, name, alias, catalogue)
    if current is None or current.version is None:
        raise unknown_alias(name, alias, catalogue)
    return _append(objects, name, alias, None, expected=current.number, who=who, why=why)


def history(objects: Objects, name: str, alias: str, catalogue: Catalogue) -> list[AliasEntry]:
    """All entries, oldest first. Raises UnknownAlias, Corrupt, Unsupported."""
    numbers = log.numbers_after(objects, alias_prefix(name, alias), 0)
    if not numbers:
        raise unknown_alias(name, alias, catalogue)
    return [read_entry(objects, name, alias, number) for number in numbers]


def current_versions(objects: Objects, name: str, catalogue: Catalogue) -> dict[str, int]:
    """Every alias that is set, and the version it names. Raises Corrupt, Unsupported."""
    entries = [newest_entry(objects, name, alias, catalogue) for alias in sorted(catalogue.aliases)]
    return {entry.alias: entry.version for entry in entries if entry and entry.version is not None}


def _append(
    objects: Objects, name: str, alias: str, version: int | None, *, expected: int, who: str, why: str
) -> AliasEntry:
    prefix, number = alias_prefix(name, alias), expected + 1
    body = seal(
        {
            "schema": SCHEMA,
            "name": name,
            "alias": alias,
            "version": version,
            "expected": expected,
            "publish_id": uuid.uuid4().hex,
            "who": who,
            "when": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "why": why,
        }
    )
    entry = decode_entry(body, name, alias, number)  # what readers would refuse is never written
    if not log.append(objects, numbered(prefix, number), body):
        raise _lost(name, alias, expected)
    log.write_hint(objects, prefix, number)
    log.announce(objects, name)
    return entry


def _lost(name: str, alias: str, expected: int) -> Conflict:
    return Conflict(
        f"the alias {alias!r} of {name} was moved by someone else: entry {expected} is not its newest any more; "
        "look at its history, then decide again"
    )
