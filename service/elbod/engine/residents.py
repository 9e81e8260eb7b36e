"""Loaded models: what a reference means now, loading on demand, hot swap, eviction.

A reference's resident is one pointer. A new version is loaded, verified, tested and warmed beside the old one, then
the pointer moves; jobs hold the resident that they were admitted with, and the last of them frees it. A version that
cannot be loaded leaves the old one serving, and `problems` says why.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from elbod.engine.counters import LoadCounters
from elbod.engine.loading import Resident
from elbod.engine.runner import Runner
from elbod.engine.smoketest import load_tested
from elbod.errors import ElbodError, InvalidInput, ModelFailure, NotReady, Place, UnknownModel
from elbod_store import (
    Corrupt,
    InvalidName,
    Manifest,
    ModelStore,
    NotFound,
    Retired,
    StoreError,
    Unavailable,
    UnknownAlias,
    Unsupported,
    Watch,
    parse_reference,
)

logger = logging.getLogger(__name__)

# A version that failed to load is tried again after this many seconds, since its blob may have been mended.
_RETRY_AFTER = 30.0

_LoadError = (Corrupt, Unsupported, ModelFailure)


class _NamelessRequest(InvalidInput):
    """No model is named, none is the default, and there are several."""


@dataclass(frozen=True)
class _Failure:
    """Why a version does not serve; `checksum` is its manifest's if that could be read and the load failed."""

    at: float
    message: str
    checksum: str | None


class Residents:
    """References to residents, kept true by `poll`.

    `find` is a dictionary look-up for the event loop; everything else may wait for the store and belongs on a thread.
    """

    def __init__(self, store: ModelStore, runner: Runner, *, default: str | None, max_loaded_bytes: int) -> None:
        self._store, self._runner = store, runner
        self.counters = LoadCounters()
        self._default = default
        self._max_loaded_bytes = max_loaded_bytes
        self._lock = threading.Lock()
        self._residents: dict[str, Resident] = {}
        self._used: dict[str, float] = {}
        self._watches: dict[str, Watch] = {}
        # By name and version (None: which version it would be cannot be told).
        self._failed: dict[tuple[str, int | None], _Failure] = {}
        # Models whose last look ended in a failure: looked at again though nothing moved.
        self._unsettled: set[str] = set()
        self._problems: list[str] = []
        self._nameless = False

    @property
    def default(self) -> Resident | None:
        """The resident of requests that name no model."""
        return self._residents.get(self._default) if self._default else None

    @property
    def ready(self) -> bool:
        """Whether the default model is loaded, or the store holds several models of which every request names one."""
        return self.default is not None or (self._default is None and self._nameless)

    @property
    def problems(self) -> list[str]:
        """What is wrong now, in sentences: versions that could not be loaded, a store that does not answer."""
        failures = [failure.message for failure in list(self._failed.values())]
        return failures + self._problems

    def loaded(self) -> list[Resident]:
        """Every distinct loaded version."""
        return list({id(resident): resident for resident in list(self._residents.values())}.values())

    @property
    def watched(self) -> list[str]:
        """The models that `poll` looks at."""
        return sorted(self._watches)

    def find(self, reference: str | None) -> Resident | None:
        """The resident of a reference if it is loaded; no waiting."""
        key = reference if reference is not None else self._default
        resident = self._residents.get(key) if key else None
        if resident is not None and key:
            self._used[key] = time.monotonic()
        return resident

    def acquire(self, reference: str | None) -> Resident:
        """The resident of a reference, loaded now if need be.

        Raises InvalidInput (bad reference, or none given and several models), UnknownModel, NotReady (the store does
        not answer), ModelFailure (the version cannot be loaded).
        """
        with self._lock:
            found = self.find(reference)
            return found if found is not None else self._load(self._name_default() if reference is None else reference)

    def _name_default(self) -> str:
        if self._default is None:
            try:
                names = self._store.names()
            except StoreError as error:
                logger.error("the model store does not answer: %s", error)
                raise NotReady("the model store does not answer: try again later") from error
            if not names:
                raise NotReady("the model store holds no model yet: publish one with `elbod train` or `elbod demo`")
            self._nameless = len(names) > 1
            if self._nameless:
                raise _NamelessRequest(Place("/model", f"name a model: the store holds {', '.join(names)}"))
            self._default = names[0]
        return self._default

    def _load(self, reference: str) -> Resident:
        try:
            name = parse_reference(reference).name
            watch = self._watches.get(name) or self._store.watch(name)
            watch.poll()
            resident = self._resident(watch.resolve(reference))
        except InvalidName as error:
            raise InvalidInput.at("/model", str(error)) from error
        except (NotFound, Retired) as error:
            self._residents.pop(reference, None)
            raise UnknownModel(str(error)) from error
        except Unavailable as error:
            # Where the store is, is the operator's business: the log and /readyz say it, answers do not.
            logger.error("the model store does not answer: %s", error)
            raise NotReady("the model store does not answer: try again later") from error
        except _LoadError as error:
            raise ModelFailure(f"{reference!r} cannot be loaded: /readyz and the log say why") from error
        # Only models that exist are watched: a request's typing error must not cost a list request a second.
        self._watches[name] = watch
        self._residents[reference] = resident
        self._used[reference] = time.monotonic()
        return resident

    def _resident(self, manifest: Manifest, instead: Resident | None = None) -> Resident:
        """The version's resident, shared by all references to it; loaded `instead` of one that goes if need be."""
        for resident in self._residents.values():
            if resident.manifest.checksum == manifest.checksum:
                return resident
        key = (manifest.name, manifest.version)
        failed = self._failed.get(key)
        if failed and failed.checksum == manifest.checksum and time.monotonic() - failed.at < _RETRY_AFTER:
            raise ModelFailure(failed.message)
        try:
            self._make_room(manifest.weights.size, instead)
            resident = load_tested(self._store, manifest, self._runner)
        except _LoadError as error:
            self.counters.load_failures += 1
            self._fail(*key, error, manifest.checksum)
            raise
        self.counters.loads += 1
        self._failed.pop(key, None)
        return resident

    def _fail(self, name: str, version: int | None, error: Exception, checksum: str | None = None) -> None:
        what = name if version is None else f"{name}@{version}"
        if (name, version) not in self._failed:
            logger.error("cannot load %s, keeping what serves: %s", what, error)
        self._failed[name, version] = _Failure(time.monotonic(), f"{what}: {error}", checksum)

    def _make_room(self, needed: int, instead: Resident | None) -> None:
        """Forget the least recently used versions until `needed` more bytes fit. Raises ModelFailure if they cannot.

        The default stays, and so does what fits; during a swap the version that goes does not count.
        """
        limit, default = self._max_loaded_bytes, self.default
        kept = 0 if default is None or default is instead else default.manifest.weights.size
        if kept + needed > limit:
            beside = f" beside the default's {kept}" if kept else ""
            raise ModelFailure(f"its weights take {needed} bytes{beside}, max_loaded_bytes is {limit}")
        while sum(r.manifest.weights.size for r in self.loaded() if r is not instead) + needed > limit:
            idle = (key for key, resident in self._residents.items() if resident not in (default, instead))
            self.counters.evictions += 1
            logger.info("evicting %s", self._residents.pop(min(idle, key=lambda key: self._used[key])))

    def poll(self) -> None:
        """Look for moved aliases and new versions, and swap. Never raises: what serves keeps serving."""
        with self._lock:
            problems: list[str] = []
            # A default that is loaded now was looked at for that.
            watches = list(self._watches.items())
            with _noted_in(problems), contextlib.suppress(_NamelessRequest):
                if self.default is None:
                    self._load(self._name_default())
            for name, watch in watches:
                with _noted_in(problems):
                    if watch.poll() or name in self._unsettled:
                        self._unsettled.add(name)
                        self._follow(name, watch)
            self._problems = problems

    def _follow(self, name: str, watch: Watch) -> None:
        """Point the model's references at what they mean now, as far as that can be read and loaded."""
        looked = time.monotonic()
        for reference, old in list(self._residents.items()):
            if old.name != name or reference not in self._residents:
                continue
            try:
                manifest = watch.resolve(reference)
            except (UnknownAlias, Retired) as error:
                logger.warning("%s is gone: %s", reference, error)
                self._residents.pop(reference)
                continue
            except (NotFound, Corrupt, Unsupported) as error:
                # Versions are retired, never deleted: a store that lost one is damaged or not mounted.
                self._fail(name, None, error)
                continue
            for version, reason in watch.refused.items():
                self._fail(name, version, reason)
            with contextlib.suppress(*_LoadError):
                new = self._residents[reference] = self._resident(manifest, instead=old)
                if new is not old:
                    self.counters.swaps += 1
                    logger.info("%s now means %s, before %s", reference, new, old)
        newest = max((resident.version for resident in self._residents.values() if resident.name == name), default=0)
        for (failed, number), failure in list(self._failed.items()):
            # History: what could be read this time, and what something newer has overtaken.
            mended = failure.checksum is None and failure.at < looked
            if failed == name and (mended or (number is not None and number <= newest)):
                del self._failed[failed, number]
        if not any(failed == name for failed, _ in self._failed):
            self._unsettled.discard(name)


@contextlib.contextmanager
def _noted_in(problems: list[str]) -> Iterator[None]:
    """One model's trouble must not stop the look at the others; a store that many depend on is named once."""
    try:
        yield
    except (StoreError, ElbodError) as error:
        if str(error) not in problems:
            problems.append(str(error))
