"""Replicas of the service as far as their store sees them: each a `Poller` thread with a `Watch` and connections of its
own, many to a process. Every request is noted on its way to the object store.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from elbod.engine.poller import Poller
from elbod_store import StoreError
from elbod_store.catalogue import PAGE
from elbod_store.objects import Objects
from elbod_store.watch import Watch
from looks import SCHEDULES, Floats

KINDS = ("LIST", "GET", "HEAD", "PUT")
Note = tuple[int, float, float]
"""Kind, when it began by the machine's monotonic clock, seconds that it took."""


class Noting:
    """An object store that notes what is asked of it."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.notes: list[Note] = []

    def list_after(self, prefix: str, after: str | None = None) -> list[str]:
        began = time.monotonic()
        keys = self._objects.list_after(prefix, after)
        # A request a page, noted as if they were asked at once.
        for _ in range(1 + max(len(keys) - 1, 0) // PAGE):
            self.notes.append((KINDS.index("LIST"), began, time.monotonic() - began))
        return keys

    def children(self, prefix: str) -> list[str]:
        return self._noted("LIST", self._objects.children, prefix)

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        return self._noted("GET", lambda key: self._objects.get(key, limit=limit), key)

    def stream(self, key: str) -> Iterator[bytes]:
        return iter(self._noted("GET", lambda key: list(self._objects.stream(key)), key))

    def head(self, key: str) -> int:
        return self._noted("HEAD", self._objects.head, key)

    def create(self, key: str, content: bytes) -> bool:
        return self._noted("PUT", self._objects.create, key, content)

    def kinds(self) -> list[str]:
        """Of the requests so far."""
        return [KINDS[kind] for kind, _, _ in self.notes]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def _noted(self, kind: str, act: Callable[..., Any], *arguments: Any) -> Any:
        began = time.monotonic()
        try:
            return act(*arguments)
        finally:
            self.notes.append((KINDS.index(kind), began, time.monotonic() - began))


class Replica:
    """What `elbod serve` does at each look, but for loading the weights."""

    def __init__(self, url: str, schedule: str, gate: threading.Event) -> None:
        self.objects = Noting(Objects.open(url))
        self._watch = Watch(self.objects, "digits")  # type: ignore[arg-type]
        self._gate = gate
        self._due: float | None = None
        self.version = 0
        self.looks: list[float] = []
        self.lags: list[float] = []
        self.noticed: list[tuple[int, float]] = []
        self.failures = 0
        self.poller = Poller(self._look, self._delays(schedule))

    def _delays(self, schedule: str) -> Iterator[float]:
        for delay in SCHEDULES[schedule](1.0):
            self._due = time.monotonic() + delay
            yield delay

    def _look(self) -> None:
        self._gate.wait()
        now = time.monotonic()
        self.looks.append(now)
        if self._due is not None:
            self.lags.append(now - self._due)
        try:
            if self._watch.poll():
                version = self._watch.resolve("digits").version
                if version != self.version:
                    self.version = version
                    self.noticed.append((version, time.monotonic()))
        except StoreError:
            self.failures += 1


@dataclass(frozen=True)
class Run:
    """What a fleet did. Times are seconds since all its replicas took their first look."""

    seconds: float
    looks: list[Floats]
    lags: Floats
    requests: dict[str, tuple[Floats, Floats]] = field(repr=False)
    """By kind: when each began and how long it took."""
    noticed: dict[int, Floats]
    """By version: when each replica had resolved it."""
    failures: int
    client_cores: float
    acts: list[tuple[float, float]]
    """When each act began and ended."""


def run(
    url: str,
    replicas: int,
    schedule: str,
    seconds: float,
    acts: list[tuple[float, Callable[[], object]]],
    processes: int = 4,
) -> Run:
    """`replicas` watch the model `digits` of the store for so long; each act happens at its second."""
    context = multiprocessing.get_context("spawn")
    ends = []
    for number in range(processes):
        end, other = context.Pipe()
        count = replicas // processes + (number < replicas % processes)
        process = context.Process(target=_watch, args=(other, url, count, schedule), daemon=True)
        process.start()
        other.close()
        ends.append((end, process))
    for end, _ in ends:
        assert end.recv() == "ready"
    start = time.monotonic() + 1
    for end, _ in ends:
        end.send((start, seconds))
    acted = []
    for at, act in acts:
        _wait_until(start + at)
        began = time.monotonic() - start
        act()
        acted.append((began, time.monotonic() - start))
    found: list[dict[str, Any]] = []
    for end, process in ends:
        found.append(end.recv())
        process.join()
    return _merged(found, start, seconds, acted)


def _wait_until(moment: float) -> None:
    threading.Event().wait(max(0.0, moment - time.monotonic()))


def _watch(connection: Connection, url: str, count: int, schedule: str) -> None:
    """One process of replicas."""
    gate = threading.Event()
    replicas = [Replica(url, schedule, gate) for _ in range(count)]
    for replica in replicas:
        replica.poller.start()
    connection.send("ready")
    start, seconds = connection.recv()
    _wait_until(start)
    before = time.process_time()
    gate.set()
    _wait_until(start + seconds)
    used = time.process_time() - before
    for replica in replicas:
        replica.poller.stop()
    connection.send(
        {
            "looks": [np.array(replica.looks) for replica in replicas],
            "lags": np.concatenate([np.array(replica.lags) for replica in replicas]),
            "notes": np.array([note for replica in replicas for note in replica.objects.notes]),
            "noticed": [pair for replica in replicas for pair in replica.noticed],
            "failures": sum(replica.failures for replica in replicas),
            "cores": used / seconds,
        }
    )


def _merged(found: list[dict[str, Any]], start: float, seconds: float, acts: list[tuple[float, float]]) -> Run:
    notes = np.concatenate([one["notes"] for one in found])
    pairs = np.array([pair for one in found for pair in one["noticed"]])
    return Run(
        seconds=seconds,
        looks=[looks - start for one in found for looks in one["looks"]],
        lags=np.concatenate([one["lags"] for one in found]),
        requests={
            kind: (notes[notes[:, 0] == code, 1] - start, notes[notes[:, 0] == code, 2])
            for code, kind in enumerate(KINDS)
        },
        noticed={int(version): pairs[pairs[:, 0] == version, 1] - start for version in np.unique(pairs[:, 0])},
        failures=sum(one["failures"] for one in found),
        client_cores=sum(one["cores"] for one in found),
        acts=acts,
    )
