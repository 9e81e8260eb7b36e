"""A million rows through the Python client, next to a loop that sends the same bytes and reads nothing of the answers.

    python benchmarks/client.py [--rows N] [--rounds N]

Client and loop have the same chunks and four requests under way; each runs in a process of its own, for its memory.
"""

import argparse
import datetime
import http.client
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

CHUNK, UNDER_WAY = 4096, 4
ELBOD = Path(sys.executable).with_name("elbod")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--run", nargs=3, metavar=("WAY", "URL", "ROWS"), help="one measurement, in this process")
    arguments = parser.parse_args()
    if arguments.run:
        way, url, rows = arguments.run
        measure(way, url, int(rows))
        return
    say(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n\n")
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        store = f"{folder}/store"
        train = [ELBOD, "train", "--recipe", "digits", "--epochs", "2", "--alias", "production", "--store", store]
        subprocess.run(train, check=True, capture_output=True)
        serve = [ELBOD, "serve", "--store", store, "--port", "0"]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            try:
                compare(found[0], arguments.rows, arguments.rounds)
            finally:
                server.terminate()
    say(f"\nimport of elbod_client: {import_seconds():.2f} s\n")


def compare(url: str, rows: int, rounds: int) -> None:
    """The ways in turn; the medians of their rates, and what memory ten times the rows take."""
    run("raw", url, rows // 10)  # warms the server
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds):
        for way in sorted(WAYS, reverse=bool(turn % 2)):
            rates[way].append(rows / run(way, url, rows)[0])
    heading = f"{rows:,} rows in requests of {CHUNK:,} | rows/s, {rounds} rounds | median, of the raw loop's"
    say(f"| {heading} |\n|---|---|---|\n")
    middle = {way: statistics.median(found) for way, found in rates.items()}
    for way, found in rates.items():
        share = f"{100 * middle[way] / middle['raw']:.0f} %"
        say(f"| {WAYS[way][0]} | {', '.join(f'{rate:,.0f}' for rate in found)} | {share} |\n")
    say(f"\n| peak memory, MiB | {rows // 10:,} rows | {rows:,} rows |\n|---|---|---|\n")
    for way, (name, _) in WAYS.items():
        small, large = (run(way, url, count)[1] for count in (rows // 10, rows))
        say(f"| {name} | {small:.0f} | {large:.0f} |\n")


def run(way: str, url: str, rows: int) -> tuple[float, float]:
    """(seconds, peak MiB) of a process of its own, its start not counted."""
    command = [sys.executable, __file__, "--run", way, url, str(rows)]
    seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(peak)


def measure(way: str, url: str, rows: int) -> None:
    send = WAYS[way][1]
    since = time.perf_counter()
    assert send(url, rows) == rows
    say(f"{time.perf_counter() - since} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")


def batches(rows: int) -> Iterator[np.ndarray]:
    """Rows of the digits' levels, a chunk at a time."""
    some = np.random.default_rng(0).integers(0, 17, (4 * CHUNK, 8, 8), dtype=np.uint8)
    for start in range(0, rows, CHUNK):
        first = start % len(some)
        yield some[first : first + min(CHUNK, rows - start)]


def streamed(url: str, rows: int) -> int:
    """An iterator of arrays in, an iterator of results out."""
    from elbod_client import Client

    with Client(url, model="digits", concurrency=UNDER_WAY) as client:
        return sum(len(part.elbo) for part in client.stream_elbo(batches(rows), seed=7))


def at_once(url: str, rows: int) -> int:
    """One array in, one result out."""
    from elbod_client import Client

    x = np.concatenate(list(batches(rows)))
    with Client(url, model="digits", chunk_rows=CHUNK, concurrency=UNDER_WAY) as client:
        return len(client.elbo(x, seed=7).elbo)


def raw(url: str, rows: int) -> int:
    """The same requests on kept connections; the bodies are made before, but for the first index."""
    from elbod_client import _verbs

    plan = _verbs.elbo(
        next(batches(rows)),
        label=None,
        num_samples=None,
        num_importance_samples=0,
        target_standard_error=None,
        seed=7,
        first_index=0,
        binarize=None,
        include=(),
        model="digits",
    )
    call = plan.call((0, plan.rows), "digits@1")
    requests = iter(range(0, rows, plan.rows))
    turn, answered = threading.Lock(), []

    def send() -> None:
        place = urlsplit(url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port)
        while True:
            with turn:
                if next(requests, None) is None:
                    return
            connection.request(call.method, call.path, call.content, call.headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            answered.append(plan.rows)

    threads = [threading.Thread(target=send) for _ in range(UNDER_WAY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return min(rows, sum(answered))


WAYS: dict[str, tuple[str, Callable[[str, int], int]]] = {
    "raw": ("raw loop", raw),
    "streamed": ("`client.stream_elbo`", streamed),
    "at_once": ("`client.elbo`, one array", at_once),
}


def import_seconds() -> float:
    """The least of five fresh processes, less that of an empty one."""

    def least(program: str) -> float:
        times = []
        for _ in range(5):
            since = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            times.append(time.perf_counter() - since)
        return min(times)

    return least("import elbod_client") - least("pass")


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
