"""What 1,000 watching replicas cost a model store on S3.

    python benchmarks/watchers.py [--replicas N] [--seconds N]

All replicas start in one moment and look once a second: for real, at SeaweedFS on this machine, all of them and a
quarter, which leaves the machine room; and on a virtual clock before a store that answers at once. A version is
published after a quarter of the time and promoted after half of it. `jitter alone` is a schedule to compare with, whose
first delay is like all others. Draws docs/figures/watchers.svg.
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
from elbod_store.watch import Watch
from fleet import Noting, Run, run
from looks import buckets
from store import fill, say
from tests.seaweed import Seaweed, running
from tests.support import LINEAR, draft, free_ports
from watchers_table import compare, quantiles, table

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "watchers.svg"
# Of a model with more keys than a page, whose first listing takes the store 16 ms: 1,000 at once would time out.
REPLICAS_OF_A_LONG_HISTORY = 250


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
            compare(runs, arguments.replicas, arguments.seconds)
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
    table(("requests of one server at a look", *acts), [("a model of few keys", *found)])


def one_watch(url: str, promote: Callable[[], object]) -> None:
    """Requests of a look at a model of many keys."""
    objects = Noting(Objects.open(url))
    watch = Watch(objects, "digits")  # type: ignore[arg-type]
    found = []
    for look in ("first", "second", "quiet", "promotion"):
        if look == "promotion":
            promote()
        objects.notes.clear()
        if watch.poll():
            watch.resolve("digits")
        found.append(counted(objects))
    table(("requests of one watch at a look", "first", "second", "quiet", "promotion"), [("many keys", *found)])


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


def long(seaweed: Seaweed, arguments: argparse.Namespace, metrics: str) -> None:
    """A fleet that watches a model of more keys than a page of a listing."""
    url, replicas = seaweed.prefix(), min(arguments.replicas, REPLICAS_OF_A_LONG_HISTORY)
    fill(url, PAGE + 100, 10)
    store = ModelStore.open(url)
    quiet, seconds = (arguments.seconds / 2, arguments.seconds), arguments.seconds + 10
    one_watch(url, lambda: store.promote("digits", "production", 76, **WHO))
    promote = (quiet[1], lambda: store.promote("digits", "production", 77, **WHO))
    with measured(seaweed, metrics, f"{PAGE + 100:,} versions, {replicas} replicas"):
        found = run(url, replicas, "as served", seconds, [promote])
    say(f"{found.failures} failures\n")
    rows = []
    for name, (since, until) in {"quiet": quiet, "5 s from the promotion on": (quiet[1], quiet[1] + 5)}.items():
        times = [found.requests[kind][0] for kind in ("LIST", "GET")]
        counts = [np.count_nonzero((one >= since) & (one < until)) / (until - since) for one in times]
        each = " + ".join(f"{count / replicas:.2f}" for count in counts)
        fullest = buckets(times[0], since, until, 1).max()
        rows.append((name, f"{counts[0]:,.0f}", f"{counts[1]:,.0f}", each, f"{fullest:,}"))
    table(("requests a second", "LIST", "GET", "a replica, LIST + GET", "LIST in the fullest second"), rows)
    last = found.noticed[77] - found.acts[0][0]
    say(f"promotion resolved by {len(last):,} replicas, s: {quantiles(last, (0, 0.5, 1), 2)}\n")


if __name__ == "__main__":
    main()
