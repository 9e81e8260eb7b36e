"""One part of a job: read its rows, run them, write it. What runs here is the same on one machine and on many."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self, TypeVar, final

import numpy as np

from elbod.engine.backends import Backend, open_backend
from elbod.engine.bulk import numbered, open_bulk
from elbod.engine.jobs import Array, Verb
from elbod.engine.loading import Resident
from elbod.engine.smoketest import load_tested
from elbod.errors import ElbodError, InvalidInput, ModelFailure, StartupError
from elbod.scale.output import Output
from elbod.scale.plan import Plan
from elbod.scale.sources import Source
from elbod_store import ModelStore, Unavailable

# A store that does not answer is asked again for so long: minutes of work are not given up for a restart of S3.
_PATIENCE = 180.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


def patiently(action: Callable[[], _T], patience: float = _PATIENCE) -> _T:
    """The action's result, tried again while the store is Unavailable. Raises Unavailable when patience ends."""
    pause, ends = _FIRST_PAUSE, time.monotonic() + patience
    while True:
        try:
            return action()
        except Unavailable as error:
            if time.monotonic() + pause > ends:
                raise
            if pause == _FIRST_PAUSE:
                logger.warning("%s; trying again for %g s", error, patience)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def load_version(store: str, model: str, digest: str, device: str) -> tuple[Backend, Resident]:
    """The version of that digest, proved on this machine. Raises StartupError, ModelFailure and StoreError."""
    backend = open_backend(device)

    def read() -> Resident:
        opened = ModelStore.open(store)
        manifest = opened.resolve(model)
        if manifest.digest != digest:
            raise StartupError(f"{model} in {store} has the digest {manifest.digest}, the job is for {digest}")
        return load_tested(opened, manifest, backend)

    return backend, patiently(read)


@dataclass(frozen=True)
class Place:
    """Where a job's work is done from: the model store, the device, engines a process, the output."""

    store: str
    device: str
    engines: int
    output: str


@final
class Worker:
    """A loaded model and its engines, for one part after the other."""

    def __init__(
        self, plan: Plan, source: Source | None, place: Place, loaded: tuple[Backend, Resident] | None = None
    ) -> None:
        """Raises StartupError: this machine would give other bytes than the plan's; ModelFailure, StoreError."""
        self._plan, self._source = plan, source
        backend, self._resident = loaded or load_version(place.store, plan.model, plan.digest, place.device)
        self._model = self._resident.description
        if self._model.fingerprint != plan.fingerprint:
            raise StartupError(differs(plan.fingerprint, self._model.fingerprint))
        self._output = Output(place.output)
        self._stack = ExitStack()
        self._bulk = self._stack.enter_context(open_bulk(backend, place.engines))
        if plan.verb is Verb.ENCODE:
            patiently(lambda: self._output.write_shared(self._model.posterior_shared))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, part: int, advance: Callable[[int], None] = lambda rows: None) -> int:
        """Work a part and write it; its rows. Raises StartupError naming the row, and StoreError."""
        start, stop = self._plan.span(part)
        x, label = (None, None) if self._source is None else self._rows(self._source, start, stop)
        try:
            job = self._plan.job(start, stop - start, self._model, x, label)
            columns = self._bulk.run(job, self._resident, advance)
        except (InvalidInput, ModelFailure) as error:
            raise self._numbered(error, start) from error
        # A disk does not come back, or grow: the job ends, and goes on with the parts that it has.
        patience = 0.0 if self._output.is_local else _PATIENCE
        patiently(lambda: self._output.write(part, start, columns), patience)
        return stop - start

    def _rows(self, source: Source, start: int, stop: int) -> tuple[Array, Array | None]:
        """The rows, and their labels where those are asked for."""
        x, label = patiently(lambda: source.read(start, stop))
        # Torch warns of arrays that may not be written to, as those of files and of Ray's memory are.
        x = np.require(x, requirements=["C", "W"])
        if self._plan.given_labels and label is None:
            raise StartupError(f"--given-labels: {source.origin} have no labels")
        encodes = self._plan.verb is Verb.ENCODE and self._model.conditional and not self._model.has_null_label
        wanted = self._plan.given_labels or encodes
        return x, label if wanted else None

    def _numbered(self, error: ElbodError, start: int) -> StartupError:
        """What is wrong with a row of a part, with its number in the whole."""
        origin = f"samples of {self._plan.model}" if self._source is None else self._source.origin
        return StartupError(f"{origin}: {numbered(str(error), start)}")


def differs(expected: str, found: str) -> str:
    """In one sentence, why two machines of these fingerprints may not share a job."""
    return (
        f"this machine computes as {found}, the job is for {expected}: their bytes would differ; "
        "use machines and versions of one kind"
    )


def failures() -> tuple[type[Exception], ...]:
    """What a worker says in one line rather than with a traceback."""
    from elbod.training.errors import TrainingError
    from elbod_store import StoreError

    return (ElbodError, StoreError, TrainingError)
