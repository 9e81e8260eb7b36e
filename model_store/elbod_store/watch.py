"""Watching one model: notice a new version, alias entry or retirement, at one request a poll.

While the model has fewer keys than a page of a listing, that request lists them. Beyond that it gets the key that every
writer overwrites after a change, and lists when it did. A writer that died before it told is noticed by a listing now
and then.
"""

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from elbod_store import log
from elbod_store.catalogue import PAGE, Catalogue, look
from elbod_store.errors import InvalidName, StoreError
from elbod_store.manifest import Manifest
from elbod_store.names import check_name, parse_reference
from elbod_store.objects import Objects
from elbod_store.resolution import resolve

POLLS_PER_LISTING: Final = 30
"""A long history is listed once in so many polls whatever its writers told."""


class Watch:
    """What a long-running service keeps per model. Used from one thread; the interval is the caller's.

    Nothing here hides what already serves: when `poll` raises Unavailable, or `resolve` anything, keep the version
    that is loaded, show the error, and poll again.
    """

    def __init__(self, objects: Objects, name: str) -> None:
        """No request is made; the model need not exist yet."""
        self.name = check_name(name)
        self._objects = objects
        self._seen: Catalogue | None = None
        self._announced: bytes | None = None
        # Each at its own turn: the listings of many watches that began together would come together, too.
        self._turn = random.randrange(POLLS_PER_LISTING)
        self._refused: dict[int, StoreError] = {}

    @property
    def refused(self) -> Mapping[int, StoreError]:
        """The versions that the last `resolve` could not accept (damaged, or of a newer schema), and why."""
        return MappingProxyType(self._refused)

    def poll(self) -> bool:
        """True if anything changed since the last poll; the first says whether there is any version at all.

        Raises Unavailable; then the next poll reports what this one missed.
        """
        announced = None
        if self._seen is not None and self._seen.size >= PAGE:
            announced = log.announced(self._objects, self.name)
            self._turn = (self._turn + 1) % POLLS_PER_LISTING
            if announced == self._announced is not None and self._turn:
                return False
        # Should this look fail, the next poll looks again.
        self._announced = None
        now = look(self._objects, self.name, self._seen)
        self._announced = announced
        changed = now != (self._seen or Catalogue())
        self._seen = now
        return changed

    def resolve(self, reference: str) -> Manifest:
        """The manifest that `reference`, of this model, meant at the last poll (which happens now if there was none).

        A bare name and `latest` pass over versions that are refused. Raises as `ModelStore.resolve`.
        """
        parsed = parse_reference(reference)
        if parsed.name != self.name:
            raise InvalidName(f"{reference!r} is not a reference to {self.name!r}, which this watch is for")
        if self._seen is None:
            self.poll()
        refused: dict[int, StoreError] = {}
        try:
            return resolve(self._objects, parsed, self._seen or Catalogue(), refused)
        finally:
            self._refused = refused
