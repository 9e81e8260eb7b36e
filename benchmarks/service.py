"""What the service promises besides speed: a quick start, a hot swap that nobody feels, flat memory, a thin client."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

import workload
from bench import Bench
from elbod_client import Client
from elbod_store import ModelStore
from load import HOST, Answer, Clock, RawConnection, Request, evenly, percentile, run
from report import Section, interleave, number, ratios, shown
from servers import Server

STARTS, SWAPS, SHARE = 3, 3, 0.5
# After a publication the service needs its poll interval and a load; requests are watched for as long.
AROUND = 5.0
SIZES, JUDGED = (1, 64, 1_024), 64
REQUEST_ROWS = 8_192


def measure_start(bench: Bench) -> Section:
    section = Section(f"Start: {STARTS} of them", ("", "seconds"))

    def imports() -> float:
        since = time.perf_counter()
        # What a worker imports, without the end of an interpreter.
        subprocess.run([sys.executable, "-c", "import os, elbod.api.app; os._exit(0)"], check=True)
        return time.perf_counter() - since

    def ready() -> float:
        since = time.perf_counter()
        with bench.start() as server:
            server.wait_until(Request("/readyz"))
            return time.perf_counter() - since

    found = interleave(STARTS, {"import elbod.api.app": imports, "elbod serve until /readyz says 200": ready})
    section.rows += [(name, shown(seconds)) for name, seconds in found.items()]
    imported, served = found.values()
    section.add("ready after import", [b - a for a, b in zip(imported, served, strict=True)], 3, at_most=True, unit="s")
    return section


def measure_swap(bench: Bench) -> Section:
    columns = ("1-row JSON", "requests", "failed", "median ms", "p99 ms", "slower than 2 x p99 before", "slowest ms")
    section = Section("Hot swap under load", columns)
    with bench.serve() as server:
        peak = bench.saturate(server, workload.as_json(1)).per_second
        before, around, seconds = run(_swap(bench, server, SHARE * peak))
    p99 = percentile([answer.latency for answer in before], 0.99)
    for what, answers in (("before", before), (f"around {SWAPS} swaps", around)):
        latencies = [answer.latency for answer in answers]
        failed, slow = _failed(answers), sum(latency > 2 * p99 for latency in latencies)
        milliseconds = [number(1e3 * value) for value in (percentile(latencies, 0.5), percentile(latencies, 0.99))]
        section.rows.append(
            (what, number(len(answers)), str(failed), *milliseconds, str(slow), number(1e3 * max(latencies)))
        )
    section.notes.append(
        f"{number(SHARE * peak)} requests/s, evenly spaced, {SHARE:.0%} of the peak; "
        f"a publication is served by all workers after {shown(seconds)} s."
    )
    section.add("failed requests", _failed(around), 0, at_most=True, unit="")
    section.add("requests slower than 2 x p99", slow, 0, at_most=True, unit="")
    return section


async def _swap(bench: Bench, server: Server, rate: float) -> tuple[list[Answer], list[Answer], list[float]]:
    """Answers in quiet and around publications, and the seconds from each until the last answer of the old version."""
    store = ModelStore.open(bench.store)
    # Built ahead: a worker publishes from another machine.
    drafts = [workload.draft(seed) for seed in range(1, SWAPS + 1)]
    clock = Clock(server.port, workload.as_json(1), evenly(rate))
    since, over = time.perf_counter(), False
    quiet = SWAPS * AROUND
    load = asyncio.create_task(clock.run(lambda: over))
    await asyncio.sleep(quiet)
    published = []
    for draft in drafts:
        manifest = await asyncio.to_thread(store.publish, draft)
        published.append((manifest.version, time.perf_counter()))
        await asyncio.sleep(AROUND)
    over = True
    answers = await load
    before = [answer for answer in answers if answer.due < since + quiet]
    around = [answer for answer in answers if answer.due >= since + quiet]
    seconds = []
    for version, at in published:
        old = [a.due for a in around if a.due > at and b'"version":%d,' % version not in a.body and a.due < at + AROUND]
        seconds.append(max(old, default=at) - at)
    return before, around, seconds


def _failed(answers: list[Answer]) -> int:
    return sum(answer.status != 200 for answer in answers)


def measure_client(bench: Bench) -> Section:
    """The Python client next to a loop that sends the same bytes on one connection and reads no answer."""
    columns = ("binary float32", "client", "raw loop", "client / raw, %")
    section = Section(f"Python client: requests/s, one caller, {bench.rounds} rounds", columns)
    with (
        bench.serve() as server,
        RawConnection(server.port) as connection,
        Client(f"http://{HOST}:{server.port}", timeout=60) as client,
    ):
        for n in SIZES:
            x, raw = workload.rows(n, np.float32), workload.as_safetensors(n, seed=0).raw
            loops: dict[str, Callable[[], float]] = {
                "client": lambda x=x: _per_second(lambda: client.elbo(x), bench.seconds / 4),  # type: ignore[misc]
                "raw": lambda raw=raw: _per_second(lambda: connection.ask(raw), bench.seconds / 4),  # type: ignore[misc]
            }
            found = interleave(bench.rounds, loops)
            share = ratios(found["client"], found["raw"], 100)
            section.rows.append((f"{n:,} rows", shown(found["client"]), shown(found["raw"]), shown(share)))
            if n == JUDGED:
                section.add(f"Python client / raw loop, {n} rows", share, 80, unit="%")
    return section


def _per_second(step: Callable[[], object], seconds: float) -> float:
    step()
    since, count = time.perf_counter(), 0
    while time.perf_counter() - since < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - since)


def measure_growth(bench: Bench, sizes: tuple[int, ...]) -> Section:
    """Seconds a row and resident memory from few rows to many, one caller, requests of at most 8,192 rows."""
    section = Section("Growth: binary float32, one caller", ("rows", "microseconds a row", "resident memory, MB"))
    with bench.serve() as server, RawConnection(server.port) as connection:
        section.rows.append(("ready", "", number(server.resident_bytes() / 1e6)))
        # Twice: buffers grow to the largest request and stay.
        for _ in range(2):
            _score(connection, REQUEST_ROWS)
        first = server.resident_bytes()
        section.rows.append((f"after two requests of {REQUEST_ROWS:,}", "", number(first / 1e6)))
        costs = []
        for rows in sizes:
            found: list[float] = []
            # Few rows again and again, so that every size is timed for as long at least.
            while sum(found) * rows < bench.seconds:
                found.append(_score(connection, rows) / rows)
            costs.append(median(found))
            section.rows.append((number(rows), number(1e6 * costs[-1]), number(server.resident_bytes() / 1e6)))
        section.add("most / least seconds a row", max(costs) / min(costs), 1.1, at_most=True)
        section.add("resident memory at the end / at first", server.resident_bytes() / first, 1.1, at_most=True)
    return section


def _score(connection: RawConnection, rows: int) -> float:
    """Seconds that it took."""
    requests = [min(REQUEST_ROWS, rows - start) for start in range(0, rows, REQUEST_ROWS)]
    raw = {n: workload.as_safetensors(n).raw for n in set(requests)}
    since = time.perf_counter()
    for n in requests:
        status, _ = connection.ask(raw[n])
        assert status == 200, f"a request of {n} rows got status {status}"
    return time.perf_counter() - since
