"""What one listing of a model's keys says: its versions, the retired ones, how far each alias's log goes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from elbod_store.names import model_prefix, trash_prefix, versions_prefix
from elbod_store.objects import Objects

PAGE = 1000  # keys that S3 returns per request

_KEY = re.compile(r"models/[^/]+/(?:(versions|trash)|aliases/([a-z][a-z0-9_-]{0,63}))/([0-9]{10})\.json")


@dataclass(frozen=True)
class Catalogue:
    """The numbers in a model's keys. `aliases` maps each alias to the number of its newest log entry."""

    versions: frozenset[int] = frozenset()
    retired: frozenset[int] = frozenset()
    aliases: Mapping[str, int] = field(default_factory=dict)

    @property
    def live(self) -> list[int]:
        """The versions that are not retired, ascending."""
        return sorted(self.versions - self.retired)

    @property
    def size(self) -> int:
        """About how many keys a full listing has."""
        return len(self.versions) + len(self.retired) + sum(self.aliases.values())


def parse(keys: Iterable[str]) -> Catalogue:
    """Pure. Keys that are no entry (hints, temporary and foreign files) are passed over."""
    numbers: dict[str, set[int]] = {"versions": set(), "trash": set()}
    aliases: dict[str, int] = {}
    for match in filter(None, map(_KEY.fullmatch, keys)):
        kind, alias, number = match[1], match[2], int(match[3])
        if number < 1:
            continue
        if kind:
            numbers[kind].add(number)
        else:
            aliases[alias] = max(number, aliases.get(alias, 0))
    return Catalogue(frozenset(numbers["versions"]), frozenset(numbers["trash"]), aliases)


def look(objects: Objects, name: str, seen: Catalogue | None = None) -> Catalogue:
    """The model's catalogue now. `seen` is an earlier one, which versions never leave.

    While a model has fewer keys than a page, this is one list request. Beyond that it is three, none of which grows
    with the number of versions: aliases, trash, and the versions after the last one seen.
    """
    prefix = model_prefix(name)
    if seen is None or seen.size < PAGE:
        return parse(objects.list_after(prefix))
    newest = f"{versions_prefix(name)}/{max(seen.versions, default=0):010}.json"
    now = parse(
        [
            *objects.list_after(f"{prefix}/aliases"),
            *objects.list_after(trash_prefix(name)),
            *objects.list_after(versions_prefix(name), newest),
        ]
    )
    return Catalogue(seen.versions | now.versions, now.retired, now.aliases)
