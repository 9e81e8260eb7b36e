"""What 1,000 watching replicas cost a model store on S3.

    python benchmarks/watchers.py [--replicas N] [--seconds N]

All replicas start in one moment and look once a second: for real, at SeaweedFS on this machine, all of them and a
quarter, which leaves the machine room; and on a virtual clock before a store that answers at once. A version is
published after a quarter of the time and promoted after half of it. `jitter alone` is the schedule without a first delay
of its own, to compare with. Draws docs/figures/watchers.svg.
"""

import argparse
import contextlib
import datetime
import os
import re
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import watchers_figure
from elbod.engine.residents import Residents
from elbod.engine.runner import Runner
from elbod_store import ModelStore
from elbod_store.catalogue import PAGE
from elbod_store.objects import Objects
from elbod_store.testing import WHO, a_draft
from fleet import Noting, Run, run
from looks import SCHEDULES, Floats, buckets, coherence, on_a_virtual_clock, peak
from store import fill, say
from tests.seaweed import Seaweed, free_ports, running
from tests.support import LINEAR, draft

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "watchers.svg"
# Of a model with more keys than a page, whose first listing takes the store 16 ms: 1,000 at once would time out.
REPLICAS_OF_A_LONG_HISTORY = 250
SETTLED = 2.0  # seconds after which the burst of the start is over
REQUESTS_LIMIT = 1100
COHERENCE_AT = (1, 2, 10, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    say(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    say(f", load before {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="weed") as folder:
        port = free_ports(1)[0]
        with running(Path(folder), f"-metricsPort={port}") as seaweed:
            os.environ |= seaweed.environment
            metrics = f"http://127.0.0.1:{port}/metrics"
            one_server(seaweed, Path(folder))
            all_of_them, quarter = arguments.replicas, arguments.replicas // 4
            runs = {
                f"{replicas:,} {schedule}": short(seaweed, schedule, replicas, arguments.seconds, metrics)
                for replicas, schedule in (
                    (quarter, "jitter alone"),
                    (quarter, "as served"),
                    (all_of_them, "as served"),
                )
            }
            compare(runs, arguments)
            watchers_figure.draw(runs, FIGURE)
            say(f"drawn: {FIGURE.name}, {FIGURE.stat().st_size / 1e3:.0f} kB\n\n")
            long(seaweed, arguments, metrics)


def one_server(seaweed: Seaweed, cache: Path) -> None:
    """Requests of one worker process of `elbod serve`, at each kind of look."""
    url = seaweed.prefix()
    writer = ModelStore.open(url, cache_dir=cache)
    objects = Noting(Objects.open(url))
    store = ModelStore(objects, cache)  # type: ignore[arg-type]
    residents = Residents(store, Runner(torch.device("cpu")), default="digits", max_loaded_bytes=2**30)

    def publish(seed: int) -> None:
        writer.publish(draft("digits", LINEAR, seed))

    def promote(version: int) -> None:
        writer.promote("digits", "production", version, **WHO)

    publish(1)
    promote(1)
    acts: dict[str, Callable[[], None]] = {
        "first look": lambda: None,
        "quiet": lambda: None,
        "publication": lambda: publish(2),
        "promotion": lambda: promote(2),
    }
    found = []
    for act in acts.values():
        act()
        objects.notes.clear()
        residents.poll()
        found.append(counted(objects))
    default = residents.default
    assert default is not None
    assert default.version == 2
    say("\n| requests of one server at a look | " + " | ".join(acts) + " |\n" + "|---" * (len(acts) + 1) + "|\n")
    say("| a model of few keys | " + " | ".join(found) + " |\n\n")


def counted(objects: Noting) -> str:
    kinds = Counter(objects.kinds())
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "none"


def short(seaweed: Seaweed, schedule: str, replicas: int, seconds: float, metrics: str) -> Run:
    """A fleet that watches a model of few keys."""
    url = seaweed.prefix()
    store = ModelStore.open(url)
    store.publish(a_draft("digits", fill=1))
    store.promote("digits", "production", 1, **WHO)
    acts: list[tuple[float, Callable[[], object]]] = [
        (seconds / 4, lambda: store.publish(a_draft("digits", fill=2))),
        (seconds / 2, lambda: store.promote("digits", "production", 2, **WHO)),
    ]
    with measured(seaweed, metrics, f"{replicas:,} {schedule}"):
        found = run(url, replicas, schedule, seconds, acts)
    lists = len(found.requests["LIST"][0])
    say(f"{lists:,} LIST noted by the replicas; they used {found.client_cores:.2f} cores; {found.failures} failures\n")
    assert len(found.noticed[2]) == replicas
    return found


@contextlib.contextmanager
def measured(seaweed: Seaweed, metrics: str, what: str) -> Iterator[None]:
    """Says what the server itself counted, and the CPU time that it used."""
    before, used = server_counts(metrics), cpu_seconds(seaweed)
    yield
    counts = {kind: number - before.get(kind, 0) for kind, number in server_counts(metrics).items()}
    seen = ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.items()) if number)
    say(f"{what}: the server counted {seen}, and used {cpu_seconds(seaweed) - used:.1f} s of CPU; ")


def server_counts(metrics: str) -> dict[str, int]:
    """Requests by SeaweedFS's own names."""
    with urllib.request.urlopen(metrics, timeout=30) as answer:
        text = answer.read().decode()
    counts: Counter[str] = Counter()
    for labels, number in re.findall(r"^SeaweedFS_s3_request_total\{(.*?)\} (\S+)$", text, flags=re.MULTILINE):
        kind = re.search(r'type="(\w+)"', labels)
        counts[kind[1] if kind else labels] += int(float(number))
    return dict(counts)


def cpu_seconds(seaweed: Seaweed) -> float:
    assert seaweed.process is not None
    fields = Path(f"/proc/{seaweed.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(runs: dict[str, Run], arguments: argparse.Namespace) -> None:
    """One table of the runs and of the virtual clock; the targets, which are of all replicas as served."""
    columns = {f"real, {name}": of_a_run(found) for name, found in runs.items()}
    for name in SCHEDULES:
        columns[f"virtual, {arguments.replicas:,} {name}"] = on_paper(name, arguments.replicas, arguments.seconds)
    say(f"\n| {arguments.seconds:.0f} s | " + " | ".join(columns) + " |\n")
    say("|---" * (len(columns) + 1) + "|\n")
    for row in next(iter(columns.values())):
        say(f"| {row} | " + " | ".join(column.get(row, "") for column in columns.values()) + " |\n")
    served = list(runs.values())[-1]
    lists = served.requests["LIST"][0]
    each_second = buckets(lists, 0, served.seconds, 1)
    rates = {
        "list requests a second, mean": each_second.mean(),
        "in the fullest second after the first": each_second[1:].max(),
        "in the first second, in which all started": each_second[0],
    }
    say("\n| target | found | limit | |\n|---|---|---|---|\n")
    for name, value in rates.items():
        say(f"| {name} | {value:,.0f} | {REQUESTS_LIMIT:,} | {'met' if value <= REQUESTS_LIMIT else 'missed'} |\n")
    say("\n")


def of_a_run(found: Run) -> dict[str, str]:
    lists, took = found.requests["LIST"]
    gets = found.requests["GET"][0]
    rows = evenness(lists, found.looks, found.seconds)
    rows["look behind its schedule, ms: median, 99 %, longest"] = quantiles(1e3 * found.lags, (0.5, 0.99, 1))
    rows["a list request takes, ms: median, 99 %, longest"] = quantiles(1e3 * took, (0.5, 0.99, 1))
    for name, (since, _) in zip(("publication", "promotion"), found.acts, strict=True):
        caused = gets[(gets >= since) & (gets < since + 5)]
        rows |= spread(name, caused, since)
    rows["promotion resolved, s: first, median, last replica"] = quantiles(
        found.noticed[2] - found.acts[1][0], (0, 0.5, 1), 2
    )
    return rows


def on_paper(schedule: str, replicas: int, seconds: float) -> dict[str, str]:
    """The same rows by the virtual clock; a look that sees a change gets two objects, alias entry and manifest."""
    looks = on_a_virtual_clock(schedule, replicas, seconds)
    rows = evenness(np.concatenate(looks), looks, seconds)
    for name, since in (("publication", seconds / 4), ("promotion", seconds / 2)):
        noticed = np.array([one[one >= since].min() for one in looks])
        rows |= spread(name, np.repeat(noticed, 2), since)
    rows["promotion resolved, s: first, median, last replica"] = quantiles(noticed - since, (0, 0.5, 1), 2)
    return rows


def evenness(lists: Floats, looks: list[Floats], seconds: float) -> dict[str, str]:
    each_second = buckets(lists, 0, seconds, 1)
    rows = {
        "list requests a second, mean": f"{each_second.mean():,.0f}",
        "in the first second": f"{each_second[0]:,}",
        "in the fullest second after that": f"{each_second[1:].max():,}",
        "fullest 100 ms / mean, 2 s to 10 s": f"{peak(lists, SETTLED, 10, 0.1):.1f}",
        "fullest 100 ms / mean, from 10 s on": f"{peak(lists, 10, seconds, 0.1):.1f}",
    }
    for at in COHERENCE_AT:
        if at <= seconds:
            rows[f"coherence after {at} s"] = f"{coherence(looks, at):.2f}"
    return rows


def spread(name: str, caused: Floats, since: float) -> dict[str, str]:
    """How even the GETs that a change causes are, from the change until the last of them."""
    until = since + 0.1 * np.ceil((caused.max() - since) / 0.1)
    peaks = [f"{peak(caused, since, until, width):.1f}" for width in (0.1, 0.01)]
    return {
        f"{name}: GETs caused, in seconds": f"{len(caused):,} in {caused.max() - since:.2f}",
        f"{name}: fullest 100 ms, 10 ms / mean": ", ".join(peaks),
    }


def quantiles(values: Floats, at: tuple[float, ...], digits: int = 0) -> str:
    return ", ".join(f"{value:,.{digits}f}" for value in np.quantile(values, at))


def long(seaweed: Seaweed, arguments: argparse.Namespace, metrics: str) -> None:
    """A fleet that watches a model of more keys than a page of a listing."""
    url, replicas = seaweed.prefix(), min(arguments.replicas, REPLICAS_OF_A_LONG_HISTORY)
    fill(url, PAGE + 100, 10)
    store = ModelStore.open(url)
    quiet, seconds = (arguments.seconds / 2, arguments.seconds), arguments.seconds + 10
    promote = (quiet[1], lambda: store.promote("digits", "production", 77, **WHO))
    with measured(seaweed, metrics, f"{PAGE + 100:,} versions, {replicas} replicas"):
        found = run(url, replicas, "as served", seconds, [promote])
    say(f"{found.failures} failures\n")
    columns = ("requests a second", "LIST", "GET", "a replica, LIST + GET", "LIST in the fullest second")
    say(f"\n| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|\n")
    for name, (since, until) in {"quiet": quiet, "5 s from the promotion on": (quiet[1], quiet[1] + 5)}.items():
        times = [found.requests[kind][0] for kind in ("LIST", "GET")]
        counts = [np.count_nonzero((one >= since) & (one < until)) / (until - since) for one in times]
        each = " + ".join(f"{count / replicas:.2f}" for count in counts)
        fullest = buckets(times[0], since, until, 1).max()
        say(f"| {name} | {counts[0]:,.0f} | {counts[1]:,.0f} | {each} | {fullest:,} |\n")
    last = found.noticed[77] - found.acts[0][0]
    say(f"\npromotion resolved by {len(last):,} replicas, s: {quantiles(last, (0, 0.5, 1), 2)}\n")


if __name__ == "__main__":
    main()
