"""A training run as the process that drives it sees it: its state is saved, its versions are counted, in the store."""

import signal
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn, final

from elbod.training.errors import CannotResume, Stopped
from elbod.training.identity import Identity
from elbod.training.pauses import Pause, Signals
from elbod.training.progress import Listener
from elbod.training.state import State
from elbod_store import Conflict, Draft, Manifest, ModelStore, RunDraft, RunEntry, StoreError, Unavailable
from elbod_store.names import check_run

# How often a run is taken over at its newest entry, before its driver's next save is in the way.
_TAKE_OVERS = 10


class _Published(Exception):
    """The version that was about to be published is there."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(f"{manifest.name}@{manifest.version}")
        self.manifest = manifest


@final
class Run:
    """One run: `Run.begin` or `Run.resume`, then `publish`, the pauses of the loop, and `finish`.

    States are written by a thread of their own, one at a time, so that training goes on meanwhile. Raises Conflict at
    the next step once another worker has taken the run over; a store that is away is noted, and tried again.
    """

    def __init__(
        self,
        store: ModelStore,
        entry: RunEntry,
        draft: RunDraft,
        progress: Listener,
        save_every: float,
        on_step: Callable[[str], None],
    ) -> None:
        self.id = entry.run
        self.publications = 0
        self._store, self._entry, self._draft, self._progress = store, entry, draft, progress
        self.signals = Signals()
        self._save_every, self._on_step = save_every, on_step
        self._saved_at = time.monotonic()
        self._started = time.monotonic()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="elbod-state")
        self._writing: Future[RunEntry] | None = None

    @classmethod
    def begin(
        cls, store: ModelStore, identity: Identity, arguments: Mapping[str, Any], who: str, **options: Any
    ) -> "Run":
        """A new run with an id of its own; `arguments` of its command are kept with it."""
        draft = RunDraft(
            run=f"{identity.name[:53]}-{uuid.uuid4().hex[:10]}",
            worker=uuid.uuid4().hex,
            who=who,
            data=identity.data,
            training={**identity.to_json(), **arguments},
        )
        return cls(store, store.append_run(draft, expected=0), draft, **options)

    @classmethod
    def resume(cls, store: ModelStore, entry: RunEntry, who: str, **options: Any) -> "Run":
        """Take over a run where `entry`, its newest, says that it is, or where it has come since.

        Raises CannotResume if it has ended meanwhile, Conflict if others write to it all the time.
        """
        for _ in range(_TAKE_OVERS):
            try:
                return cls._take_over(store, entry, who, **options)
            except Conflict:
                # Whoever drives it has just saved: that is where to go on.
                entry = unfinished(store, entry.run)
        return cls._take_over(store, entry, who, **options)

    @classmethod
    def _take_over(cls, store: ModelStore, entry: RunEntry, who: str, **options: Any) -> "Run":
        draft = RunDraft(
            run=entry.run,
            worker=uuid.uuid4().hex,
            who=who,
            data=entry.data,
            training=entry.training,
            epoch=entry.epoch,
            step=entry.step,
            published=entry.published,
            blobs=entry.blobs,
        )
        # From now on whoever else drives the run finds its next number taken.
        return cls(store, store.append_run(draft, expected=entry.number), draft, **options)

    @property
    def entry(self) -> RunEntry:
        """The newest entry, this worker's own."""
        return self._entry

    def state(self) -> bytes:
        """The newest state, verified; nothing if none was saved. Raises Corrupt."""
        return self._store.read(self._entry.blobs[0]) if self._entry.blobs else b""

    def restore(self, state: State) -> None:
        """Count on from a state."""
        self.publications = int(state.plain["publications"])
        self._started -= float(state.plain["wall_time"])

    @property
    def wall_time(self) -> float:
        """Seconds until now that count: an interruption's own do not, nor do those of work that it lost."""
        return time.monotonic() - self._started

    # Pauses of the loop

    def wanted(self, end_of_epoch: bool, end_of_training: bool = False) -> Pause:
        stop = Pause.STOP if self.signals.number is not None else Pause.NONE
        if self._writing is not None:
            if not self._writing.done() and self._save_every:
                return stop
            if self._writing.done():
                self._settle()
        # Scoring the test rows, which comes next, may take longer than the training did.
        period = self._save_every / 10 if end_of_training else self._save_every
        due = end_of_epoch if not period else time.monotonic() - self._saved_at >= period
        return stop | (Pause.SAVE if due else Pause.NONE)

    def pause(self, what: Pause, state: State) -> None:
        """Write the state behind training's back; before an end wait until it is written. Raises Stopped, Conflict."""
        self._settle()
        plain = {**state.plain, "publications": self.publications, "wall_time": self.wall_time}
        epoch, step = int(plain["epoch"]), int(plain["steps"])
        draft = replace(self._draft, epoch=epoch, step=step, blobs=(), contents=(replace(state, plain=plain).pack(),))
        self._saved_at = time.monotonic()
        self._writing = self._writer.submit(self._append, draft)
        if what & Pause.STOP:
            self._settle()
            self.stop()

    def stop(self) -> NoReturn:
        """Raises Stopped, saying where the run is."""
        raise Stopped(
            f"interrupted: what was published stays, and the run {self.id} is saved at step {self._entry.step:,}: "
            f"`elbod train --resume {self.id}` goes on",
            self.signals.number or signal.SIGTERM,
        )

    # Versions

    def publish(self, make_draft: Callable[[], Draft]) -> Manifest:
        """Publish the run's next version, unless that was done before an interruption."""
        self.publications += 1
        self._settle()
        found = self._published(self.publications)
        if found is not None:
            self._progress.note(f"{found.name}@{found.version} was published before the run was interrupted")
        else:
            draft = make_draft()
            try:
                found = self._store.publish(
                    draft, on_step=lambda step: self._on_step(f"publish:{step}"), claim=self._claim
                )
            except _Published as error:
                found = error.manifest
        if found.version not in self._entry.published:
            published = (*self._entry.published, found.version)
            self._append(replace(self._draft, published=published), on_step="published")
        return found

    def finish(self) -> None:
        """The end: the state becomes garbage. Raises Conflict."""
        self._settle()
        self._append(replace(self._draft, blobs=(), finished=True), on_step="finish")

    def close(self) -> None:
        """Wait for the writer."""
        self._writer.shutdown()

    def _published(self, publication: int) -> Manifest | None:
        """The version that is this run's number `publication`, also if the run's log does not know it yet."""
        known = self._entry.published
        after = known[publication - 1] - 1 if publication <= len(known) else max(known, default=0)
        mine = {"id": self.id, "publication": publication}
        name = str(self._draft.training["name"])
        return next((m for m in self._store.manifests(name, after) if m.training.get("run") == mine), None)

    def _claim(self, version: int) -> None:
        """Before each number that is tried: no two workers publish the run's next version twice.

        Who lost the run may still be creating one version, tried before or at the number that its successor tries. If
        that is the same number, one of the two finds it taken and comes here again: the one who lost the run stops,
        and the successor finds the version below its next number.
        """
        found = self._published(self.publications)
        if found is not None:
            raise _Published(found)
        self._refuse_if_taken_over()

    def _refuse_if_taken_over(self) -> None:
        newest = self._store.run(self.id)
        if newest.worker != self._draft.worker:
            # Says so, and in the words of every lost race.
            self._append(self._draft)

    def _append(self, draft: RunDraft, on_step: str = "save") -> RunEntry:
        entry = self._store.append_run(
            draft, expected=self._entry.number, on_step=lambda step: self._on_step(f"{on_step}:{step}")
        )
        self._entry = entry
        self._draft = replace(draft, blobs=entry.blobs, contents=())
        return entry

    def _settle(self) -> None:
        """Wait for a state that is being written. Raises Conflict."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except Unavailable as error:
            self._progress.note(f"the state of the run {self.id} was not saved: {error}; training goes on")


@final
class Follower:
    """What a process that trains along, and is not the first, does in the loop's pauses."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def wanted(self, end_of_epoch: bool, end_of_training: bool = False) -> Pause:
        return Pause.STOP if self._signals.number is not None else Pause.NONE

    def pause(self, what: Pause, state: State) -> None:
        if what & Pause.STOP:
            # The first process says what there is to say.
            raise Stopped("", self._signals.number or signal.SIGTERM)


def newest_unfinished(store: ModelStore, identity: Identity, progress: Listener) -> RunEntry | None:
    """The newest run that trains just this and has not ended."""
    found = []
    for run in store.runs():
        try:
            entry = store.run(run)
            if not entry.finished:
                identity.check(entry)
                found.append(entry)
        except CannotResume:
            continue
        except Unavailable:
            raise
        except StoreError as error:
            progress.note(f"the run {run} is passed over: {error}")
    return max(found, key=lambda entry: entry.when, default=None)


def unfinished(store: ModelStore, run: str) -> RunEntry:
    """The newest entry of a run that has not ended. Raises CannotResume, UnknownRun."""
    entry = store.run(check_run(run))
    if entry.finished:
        raise CannotResume(f"the run {run} has ended: its versions are {list(entry.published) or 'none'}; train anew")
    return entry
