"""Loaded models: what a reference means now, loading on demand, hot swap, eviction.

A reference's resident is one pointer. A new version is loaded, verified, tested and warmed beside the old one, then
the pointer moves; jobs hold the resident that they were admitted with, and the last of them frees it. A version that
cannot be loaded leaves the old one serving, and `problems` says why.

Look-ups and loads have threads of their own. No lock is held while the store or a load is waited for.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace

from elbod.engine.backends import Backend
from elbod.engine.counters import LoadCounters
from elbod.engine.loading import Resident, needed_bytes
from elbod.engine.smoketest import load_tested
from elbod.engine.threads import Threads
from elbod.errors import DamagedStore, ElbodError, InvalidInput, ModelFailure, NotReady, Place, UnknownModel
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

# Seconds until a version that failed to load is tried again, since its blob may have been mended: after the first
# failure, doubled after each further one, and at most.
_FIRST_RETRY, _LAST_RETRY = 30.0, 300.0

# References that are looked up at once, and versions that are loaded at once.
_LOOK_UPS, _LOADS = 8, 4
# References that requests may wait for at once.
_MOST_ASKED = 256
# What /readyz repeats of an error.
_MESSAGE_LENGTH = 500


class _NamelessRequest(InvalidInput):
    """No model is named, none is the default, and there are several."""


@dataclass(frozen=True)
class _Failure:
    """Why a version does not serve; `checksum` is its manifest's if that could be read and the load failed."""

    at: float
    message: str
    checksum: str | None
    retry_after: float
    damaged: bool
    # When a look last found that a reference means the version.
    wanted_at: float = 0.0

    def error(self, reference: str) -> ElbodError:
        """What callers hear: where the store is, and what a model says of itself, is the operator's business."""
        kind = DamagedStore if self.damaged else ModelFailure
        return kind(f"{reference!r} cannot be loaded: /readyz and the log say why")


@dataclass(eq=False)
class _Load:
    """A load that is under way: what will point to its version, and the bytes that are kept free for it."""

    manifest: Manifest
    outcome: "Future[Resident]" = field(default_factory=Future)
    references: set[str] = field(default_factory=set)
    nbytes: int = 0


class Residents:
    """References to residents, kept true by `poll`.

    `find` and `ask` never wait, and are for the event loop; `acquire` and `poll` belong on a thread.
    """

    def __init__(self, store: ModelStore, backend: Backend, *, default: str | None, max_loaded_bytes: int) -> None:
        self._store, self._backend = store, backend
        self.counters = LoadCounters()
        self._default = default
        self._max_loaded_bytes = max_loaded_bytes
        self._look_ups, self._loaders = Threads(_LOOK_UPS, "elbod-look-up"), Threads(_LOADS, "elbod-load")
        # Guards all that follows, for moments only; notified when a load ends.
        self._changed = threading.Condition()
        self._residents: dict[str, Resident] = {}
        self._used: dict[str, float] = {}
        self._watches: dict[str, Watch] = {}
        # By the manifest's checksum.
        self._loads: dict[str, _Load] = {}
        # What requests wait for, by reference.
        self._asked: dict[str | None, Future[Resident]] = {}
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

    def ask(self, reference: str | None) -> "Future[Resident]":
        """The resident of a reference, looked up and loaded by other threads: once for all who ask meanwhile.

        The future is shared: do not cancel it. Its errors are those of `acquire`. Raises NotReady if
        too many references are being asked for.
        """
        with self._changed:
            asked = self._asked.get(reference)
            if asked is None:
                if len(self._asked) >= _MOST_ASKED:
                    raise NotReady(f"{_MOST_ASKED} models are being looked up or loaded: try again later")
                asked = self._asked[reference] = Future()
                self._look_ups.submit(self._answer, reference, asked)
        return asked

    def acquire(self, reference: str | None) -> Resident:
        """The resident of a reference, loaded now if need be.

        Raises InvalidInput (bad reference, or none given and several models), UnknownModel, NotReady (the store does
        not answer), ModelFailure (the version cannot be loaded), DamagedStore (because its blobs are damaged).
        """
        found = self.find(reference)
        return found if found is not None else self._begin(reference).result()

    def _answer(self, reference: str | None, asked: "Future[Resident]") -> None:
        """Look a reference up, and settle `asked` now or when its version is loaded."""

        def settle(outcome: "Future[Resident]") -> None:
            with self._changed:
                del self._asked[reference]
            error = outcome.exception()
            if error is None:
                asked.set_result(outcome.result())
            else:
                asked.set_exception(error)

        try:
            outcome = self._begin(reference)
        except Exception as error:
            outcome = Future()
            outcome.set_exception(error)
        outcome.add_done_callback(settle)

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

    def _begin(self, reference: str | None) -> "Future[Resident]":
        """Look a reference up, and begin or join the load of what it means; raises as `acquire`."""
        if reference is None:
            reference = self._name_default()
        try:
            name = parse_reference(reference).name
            manifest = self._store.resolve(reference)
        except InvalidName as error:
            raise InvalidInput.at("/model", str(error)) from error
        except (NotFound, Retired) as error:
            with self._changed:
                self._drop(reference)
            raise UnknownModel(str(error)) from error
        except Unavailable as error:
            # Where the store is, is the operator's business: the log and /readyz say it, answers do not.
            logger.error("the model store does not answer: %s", error)
            raise NotReady("the model store does not answer: try again later") from error
        except StoreError as error:
            self._fail(name, None, error)
            raise self._failed[name, None].error(reference) from error
        return self._load(reference, manifest)

    def _load(self, reference: str, manifest: Manifest) -> "Future[Resident]":
        """Point the reference at the version once it is loaded: now, or at the end of a load that is begun or joined.

        Raises ModelFailure or DamagedStore for a version that has failed lately.
        """
        with self._changed:
            for other in self._loads.values():
                other.references.discard(reference)
            for resident in self._residents.values():
                if resident.manifest.checksum == manifest.checksum:
                    self._point(reference, resident)
                    done: Future[Resident] = Future()
                    done.set_result(resident)
                    return done
            failed = self._failed.get((manifest.name, manifest.version))
            if failed and failed.checksum == manifest.checksum and time.monotonic() - failed.at < failed.retry_after:
                raise failed.error(reference)
            under_way = self._loads.get(manifest.checksum)
            if under_way is None:
                under_way = self._loads[manifest.checksum] = _Load(manifest)
                self._loaders.submit(self._run, under_way)
            under_way.references.add(reference)
            return under_way.outcome

    def _run(self, under_way: _Load) -> None:
        """One load, on a loader thread. Any exception is a failed load."""
        manifest = under_way.manifest
        try:
            self._make_room(under_way, needed_bytes(manifest))
            resident = load_tested(self._store, manifest, self._backend)
        except BaseException as error:
            # A family's code may raise anything, SystemExit too: no exception ends more than the load.
            with self._changed:
                self.counters.load_failures += 1
                self._fail(manifest.name, manifest.version, error, manifest.checksum)
                failure = self._failed[manifest.name, manifest.version].error(f"{manifest.name}@{manifest.version}")
                self._end(under_way)
            under_way.outcome.set_exception(failure)
            return
        with self._changed:
            self.counters.loads += 1
            self._failed.pop((manifest.name, manifest.version), None)
            for reference in under_way.references:
                self._point(reference, resident)
            self._forget_overtaken(manifest.name)
            self._end(under_way)
        under_way.outcome.set_result(resident)

    def _end(self, under_way: _Load) -> None:
        del self._loads[under_way.manifest.checksum]
        self._changed.notify_all()

    def _point(self, reference: str, resident: Resident) -> None:
        """Let the reference mean that version from now on. Holds the lock."""
        old = self._residents.get(reference)
        self._residents[reference] = resident
        if old is None:
            self._used[reference] = time.monotonic()
            # Only models that exist are watched: a request's typing error must not cost a list request a second.
            name = resident.manifest.name
            if name not in self._watches:
                self._watches[name] = self._store.watch(name)
                # Even if the store is empty by then.
                self._unsettled.add(name)
        elif old is not resident:
            self.counters.swaps += 1
            logger.info("%s now means %s, before %s", reference, resident, old)

    def _drop(self, reference: str) -> None:
        """Let the reference mean nothing. Holds the lock."""
        for under_way in self._loads.values():
            under_way.references.discard(reference)
        self._residents.pop(reference, None)

    def _fail(self, name: str, version: int | None, error: BaseException, checksum: str | None = None) -> None:
        what = name if version is None else f"{name}@{version}"
        before = self._failed.get((name, version))
        expected = isinstance(error, (StoreError, ElbodError))
        message = str(error) if expected else f"{type(error).__name__}: {error}"
        if before is None:
            logger.error("cannot load %s, keeping what serves: %s", what, message, exc_info=None if expected else error)
        retry = _FIRST_RETRY if before is None else min(_LAST_RETRY, 2 * before.retry_after)
        damaged = isinstance(error, (Corrupt, Unsupported, DamagedStore))
        message = f"{what}: {message[:_MESSAGE_LENGTH]}"
        self._failed[name, version] = _Failure(time.monotonic(), message, checksum, retry, damaged)
        self._unsettled.add(name)

    def _make_room(self, under_way: _Load, needed: int) -> None:
        """Forget the least recently used versions until `needed` more bytes fit. Raises ModelFailure if they cannot.

        The default stays, and so does what fits; during a swap the version that goes does not count. What others load
        at the same time is waited for.
        """
        limit = self._max_loaded_bytes
        with self._changed:
            while True:
                default = self.default
                going = [self._residents[key] for key in under_way.references if key in self._residents]
                kept = 0 if default is None or default in going else default.nbytes
                if kept + needed > limit:
                    beside = f" beside the default's {kept}" if kept else ""
                    raise ModelFailure(f"it takes {needed} bytes{beside}, max_loaded_bytes is {limit}")
                loading = sum(other.nbytes for other in self._loads.values())
                if kept + loading + needed <= limit:
                    break
                self._changed.wait()
            while sum(r.nbytes for r in self.loaded() if r not in going) + loading + needed > limit:
                idle = (key for key, resident in self._residents.items() if resident not in (default, *going))
                self.counters.evictions += 1
                logger.info("evicting %s", self._residents.pop(min(idle, key=lambda key: self._used[key])))
            under_way.nbytes = needed

    def poll(self, patience: float | None = None) -> None:
        """Look for moved aliases and new versions, and begin to load them; wait up to `patience` seconds for that.

        Never raises: what serves keeps serving. For one thread at a time.
        """
        problems: list[str] = []
        begun: list[Future[Resident]] = []
        # A default that is loaded now was looked at for that.
        watches = list(self._watches.items())
        if self.default is None:
            # What is wrong with a version, `problems` says already.
            with _noted_in(problems), contextlib.suppress(_NamelessRequest, ModelFailure):
                begun.append(self._begin(self._default))
        for name, watch in watches:
            with _noted_in(problems):
                if watch.poll() or name in self._unsettled:
                    self._unsettled.add(name)
                    begun += self._follow(name, watch)
        self._problems = problems
        self._forget_unasked()
        wait(begun, patience)

    def _follow(self, name: str, watch: Watch) -> "list[Future[Resident]]":
        """Begin to load what the model's references mean now, as far as that can be read."""
        looked = time.monotonic()
        begun: list[Future[Resident]] = []
        wanted: set[int] = set()
        for reference in [key for key, resident in list(self._residents.items()) if resident.manifest.name == name]:
            try:
                manifest = watch.resolve(reference)
            except (UnknownAlias, Retired) as error:
                logger.warning("%s is gone: %s", reference, error)
                with self._changed:
                    self._drop(reference)
                continue
            except (NotFound, Corrupt, Unsupported) as error:
                # Versions are retired, never deleted: a store that lost one is damaged or not mounted.
                self._fail(name, None, error)
                continue
            for version, reason in watch.refused.items():
                self._fail(name, version, reason)
            wanted.add(manifest.version)
            with contextlib.suppress(ModelFailure):
                begun.append(self._load(reference, manifest))
        with self._changed:
            for (failed, number), failure in list(self._failed.items()):
                # What could be read this time.
                if failed == name and failure.checksum is None and failure.at < looked:
                    del self._failed[failed, number]
                elif failed == name and number in wanted:
                    self._failed[failed, number] = replace(failure, wanted_at=looked)
            self._forget_overtaken(name)
            if not any(failed == name for failed, _ in self._failed):
                self._unsettled.discard(name)
        return begun

    def _forget_unasked(self) -> None:
        """Failures of what nobody has asked for lately, such as a version that was rolled back, are history."""
        now = time.monotonic()
        with self._changed:
            for key, failure in list(self._failed.items()):
                if now - max(failure.at, failure.wanted_at) > failure.retry_after + _FIRST_RETRY:
                    del self._failed[key]

    def _forget_overtaken(self, name: str) -> None:
        """Failures of versions are history once something newer is loaded. Holds the lock."""
        manifests = (resident.manifest for resident in self._residents.values())
        newest = max((manifest.version for manifest in manifests if manifest.name == name), default=0)
        for failed, number in list(self._failed):
            if failed == name and number is not None and number <= newest:
                del self._failed[failed, number]


@contextlib.contextmanager
def _noted_in(problems: list[str]) -> Iterator[None]:
    """One model's trouble must not stop the look at the others; a store that many depend on is named once."""
    try:
        yield
    except (StoreError, ElbodError) as error:
        if str(error) not in problems:
            problems.append(str(error))
    except Exception as error:
        logger.exception("a look at the model store failed")
        problems.append(f"a look at the model store failed: {type(error).__name__}: {error}"[:_MESSAGE_LENGTH])
