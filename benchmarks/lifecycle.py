"""Seconds from a process to a ready server; requests while a version replaces another."""

import asyncio
import subprocess
import sys
import time

import workload
from bench import Bench
from elbod_store import ModelStore
from load import Answer, Clock, Request, evenly, percentile, run
from report import Section, both, mean, number
from servers import Server

STARTS, SWAPS, SHARE = 3, 3, 0.5
# After a publication the service needs its poll interval and a load; requests are watched for as long.
AROUND = 5.0


def measure_start(bench: Bench) -> Section:
    section = Section("Start: seconds", ("", "each start"))
    imports, ready = [], []
    for _ in range(STARTS):
        since = time.perf_counter()
        # What a worker imports, without the end of an interpreter.
        subprocess.run([sys.executable, "-c", "import os, elbod.api.app; os._exit(0)"], check=True)
        imports.append(time.perf_counter() - since)
        since = time.perf_counter()
        with bench.start() as server:
            server.wait_until(Request("/readyz"))
            ready.append(time.perf_counter() - since)
    section.rows.append(("import elbod.api.app", both(imports)))
    section.rows.append(("elbod serve until /readyz says 200", both(ready)))
    section.add("ready after import", mean(ready) - mean(imports), 3, at_most=True, unit="s")
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
        shown = [number(1e3 * value) for value in (percentile(latencies, 0.5), percentile(latencies, 0.99))]
        section.rows.append((what, number(len(answers)), str(failed), *shown, str(slow), number(1e3 * max(latencies))))
    section.notes.append(
        f"{number(SHARE * peak)} requests/s, evenly spaced, {SHARE:.0%} of the peak; "
        f"a publication is served by all workers after {both(seconds)} s."
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
