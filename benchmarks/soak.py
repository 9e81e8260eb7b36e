"""Everything at once for half an hour: no answer lost, no byte wrong, no memory leaked.

    python benchmarks/soak.py [--seconds N] [--output FILE]

A real `elbod serve --workers 2` of nine families: the Python client, blocking and asyncio, and raw HTTP (JSON, base64,
safetensors, links with their ETags) ask all verbs, while versions are published and aliases move, callers leave early
or read slowly, requests are malformed and a worker is killed every minute. The same worker always stays, so that a leak
shows. Every answer is compared with that of a quiet server. Exit code 1 if an answer of the Python client is lost, if
bytes are wrong, if an error is not one that a kill explains, or if memory or descriptors grow.
"""

import argparse
import datetime
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import servers
import soak_callers
from elbod_store import ModelStore
from load import HOST, percentile
from processes import descriptors, resident, serve, workers
from report import Section, number, target_table
from soak_callers import Play, Tally, count_retries
from soak_scripts import MODELS, Script, expect
from tests.support import draft

SCRIPTS, KEPT_VERSIONS = 120, 6
SWAP_EVERY, KILL_EVERY, SAMPLE_EVERY, SHOW_EVERY = 5.0, 60.0, 2.0, 300.0
# What a process may grow by from the end of the warm-up to the end: a share and some bytes.
GROWTH, GROWTH_BYTES, GROWTH_DESCRIPTORS = 0.10, 20e6, 10
NAMES = ("supervisor", "worker that lives", "worker that is killed")


@dataclass(frozen=True)
class Sample:
    """Memory and descriptors of supervisor, oldest and youngest worker at one moment; None where there is none."""

    at: float
    memory: tuple[int | None, ...]
    descriptors: tuple[int | None, ...]


@dataclass
class Events:
    """What is done to the server, by the clock."""

    store: ModelStore
    supervisor: int
    # The worker that stays.
    survivor: int
    done: Counter[str] = field(default_factory=Counter)
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def swap(self) -> None:
        """Publish a version, or move an alias to one of the newest."""
        name = self.rng.choice(list(MODELS))
        versions = self.store.versions(name)
        if self.rng.random() < 0.5:
            self.store.publish(draft(name, MODELS[name], seed=1 + (versions[-1] % 2)))
            self.done["versions published"] += 1
            named = self.store.aliases(name).values()
            for version in [version for version in versions[2:-KEPT_VERSIONS] if version not in named]:
                self.store.retire(name, version)
                self.done["versions retired"] += 1
            return
        recent = [1, 2, *versions[-5:]]
        self.store.promote(name, "production", self.rng.choice(recent), who="soak", why="a swap")
        self.done["aliases moved"] += 1

    def kill(self) -> None:
        for pid in workers(self.supervisor):
            if pid != self.survivor:
                os.kill(pid, signal.SIGKILL)
                self.done["workers killed"] += 1

    def sample(self, at: float) -> Sample:
        pids = [self.supervisor, self.survivor]
        pids += [pid for pid in workers(self.supervisor) if pid != self.survivor][:1]
        padded: list[int | None] = [*pids, None][:3]
        return Sample(
            at,
            tuple(None if pid is None else resident(pid) for pid in padded),
            tuple(None if pid is None else descriptors(pid) for pid in padded),
        )


@contextmanager
def calling(play: Play) -> Iterator[None]:
    """All callers, until the end of the block; then each finishes what it began."""
    work: list[Callable[[], None]] = [
        *(lambda n=n: soak_callers.ask_with_client(play, n) for n in range(3)),
        lambda: soak_callers.ask_with_async_client(play, 100, tasks=4),
        *(lambda n=n: soak_callers.ask_raw(play, n) for n in range(200, 203)),
        lambda: soak_callers.leave_early(play, 300),
        lambda: soak_callers.read_slowly(play, 400),
        lambda: soak_callers.ask_badly(play, 500),
        lambda: soak_callers.ask_one_row(play, 600),
    ]

    def guarded(step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            play.tally.add(play.tally.unexpected, f"a caller ended: {type(error).__name__}: {str(error)[:120]}")

    threads = [threading.Thread(target=guarded, args=(step,)) for step in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        play.tally.stop.set()
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                play.tally.add(play.tally.unexpected, "a caller waits for an answer after two minutes")


def soak(play: Play, events: Events, seconds: float) -> list[Sample]:
    """Swaps, kills and samples for so long."""
    steps: list[tuple[float, Callable[[], object]]] = [
        (SWAP_EVERY, events.swap),
        (min(KILL_EVERY, seconds / 4), events.kill),
    ]
    samples: list[Sample] = []
    began = time.monotonic()
    every = min(SAMPLE_EVERY, seconds / 60)
    steps.append((every, lambda: samples.append(events.sample(time.monotonic() - began))))
    due = [began + period for period, _ in steps]
    while (now := time.monotonic()) < began + seconds:
        for number_, (period, step) in enumerate(steps):
            if now >= due[number_]:
                step()
                due[number_] += period
        time.sleep(max(0.0, min(0.5, min(due) - time.monotonic())))
    return samples


def growth(samples: list[Sample], seconds: float, read: Callable[[Sample], int | None]) -> tuple[float, float, float]:
    """Medians after the warm-up and at the end, and the slope between, an hour."""
    known = [(sample.at, value) for sample in samples if (value := read(sample)) is not None]
    warm = [value for at, value in known if seconds / 3 <= at < seconds / 2]
    late = [value for at, value in known if at >= 5 * seconds / 6]
    if not warm or not late:
        return float("nan"), float("nan"), float("nan")
    first, last = statistics.median(warm), statistics.median(late)
    return first, last, (last - first) / (seconds / 2) * 3600


def over_time(samples: list[Sample], seconds: float) -> Section:
    """The samples as a table, and the limits of what does not die."""
    columns = ["minute", *(f"{name}, MB" for name in NAMES), *(f"{name}, descriptors" for name in NAMES)]
    section = Section("Memory and descriptors", columns)
    step = min(SHOW_EVERY, seconds / 6)
    shown = [min(samples, key=lambda s: abs(s.at - at)) for at in _moments(step, seconds)]
    for sample in shown:
        memory = ["-" if value is None else number(value / 1e6) for value in sample.memory]
        files = ["-" if value is None else str(value) for value in sample.descriptors]
        section.rows.append([f"{sample.at / 60:.1f}", *memory, *files])
    for place, name in enumerate(NAMES[:2]):
        first, last, slope = growth(samples, seconds, lambda s, place=place: s.memory[place])  # type: ignore[misc]
        section.notes.append(
            f"{name}: {number(first / 1e6)} MB, at the end {number(last / 1e6)}: {slope / 1e6:+.1f} MB/h"
        )
        section.add(
            f"{name}: growth", (last - first) / 1e6, (GROWTH * first + GROWTH_BYTES) / 1e6, at_most=True, unit="MB"
        )
        first, last, _ = growth(samples, seconds, lambda s, place=place: s.descriptors[place])  # type: ignore[misc]
        section.add(f"{name}: growth of descriptors", last - first, GROWTH_DESCRIPTORS, at_most=True, unit="")
    return section


def _moments(step: float, seconds: float) -> list[float]:
    return [step * n for n in range(round(seconds / step) + 1)]


def counted(tally: Tally, events: Events, seconds: float) -> Section:
    """Requests, errors and events; lost answers and wrong bytes are targets of none."""
    section = Section("Requests", ("what", "count"))

    def rows(title: str, counter: Counter[str]) -> None:
        section.rows.append((f"**{title}**", f"**{counter.total():,}**"))
        section.rows.extend((what, f"{count:,}") for what, count in sorted(counter.items()))

    rows("answered as expected", tally.requests)
    rows("events", events.done)
    rows("retries of the Python client", tally.retries)
    rows("errors that a kill or a limit explains", tally.expected)
    rows("errors that nothing explains", tally.unexpected)
    rows("answers that the Python client lost", tally.lost)
    rows("answers of wrong bytes", tally.wrong)
    shown = [number(1e3 * percentile(tally.latencies, share)) for share in (0.5, 0.99)]
    rate = tally.requests.total() / seconds
    section.notes.append(f"{rate:.0f} requests/s; one row of JSON: median {shown[0]} ms, p99 {shown[1]} ms.")
    section.add("lost answers, Python client", tally.lost.total(), 0, at_most=True, unit="")
    section.add("wrong bytes", tally.wrong.total(), 0, at_most=True, unit="")
    section.add("errors that nothing explains", tally.unexpected.total(), 0, at_most=True, unit="")
    return section


def prepare(folder: Path) -> ModelStore:
    """Two versions of each family, of other weights; the first one is in production."""
    store = ModelStore.open(folder / "store")
    for name, blueprint in MODELS.items():
        for seed in (1, 2):
            store.publish(draft(name, blueprint, seed))
        store.promote(name, "production", 1, who="soak", why="first")
    return store


def run(folder: Path, seconds: float) -> list[Section]:
    store, tally = prepare(folder), Tally()
    scripts = [Script.of(n) for n in range(SCRIPTS)]
    with serve(folder / "store", "--workers", "1", "--model", "levels") as server:
        expected = expect(f"http://{HOST}:{server.port}", scripts, (1, 2))
    count_retries(tally)
    with serve(folder / "store", "--workers", "2", "--model", "levels") as server:
        play = Play(f"http://{HOST}:{server.port}", server.port, scripts, expected, tally)
        events = Events(store, server.pid, workers(server.pid)[0])
        with calling(play):
            samples = soak(play, events, seconds)
        if events.survivor not in workers(server.pid):
            tally.add(tally.unexpected, "the worker that is never killed died")
        server.end(signal.SIGTERM)
        if server.exit_code != 0:
            tally.add(tally.unexpected, f"SIGTERM: exit code {server.exit_code}")
        for bad in ("Traceback", "a bug"):
            if found := server.log.count(bad):
                tally.unexpected[f"{bad!r} in the log"] += found
    return [counted(tally, events, seconds), over_time(samples, seconds)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--output", type=Path, metavar="FILE", help="the section of JOURNAL.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        sections = run(Path(folder), arguments.seconds)
    said = [
        "## Soak",
        "",
        f"    make soak SOAK_SECONDS={arguments.seconds:.0f}",
        "",
        f"{datetime.date.today()}, {servers.CORES} cores, Python {platform.python_version()}, load before {load:.1f}: "
        f"{servers.versions(Path(sys.executable), ['elbod', 'elbod-client', 'torch', 'uvicorn', 'httpx'])}.",
        *(line for section in sections for line in section.lines()),
        "",
        *target_table(sections),
    ]
    text = "\n".join(said) + "\n"
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text)
    return 0 if all(target.met for section in sections for target in section.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
