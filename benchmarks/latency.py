"""Latency at 70 % of the peak, and of a small request while a large one runs."""

import threading
import time
from itertools import cycle

import numpy as np

import workload
from bench import Bench
from load import Answer, RawConnection, ask, evenly, independently, paced, percentile
from report import Section, number
from servers import Server

SHARE, LARGE_ROWS, CALLERS = 0.7, 60_000, 8


def measure(bench: Bench) -> Section:
    section = Section("Latency: 1-row JSON, milliseconds", ("", "requests", "median", "p99", "most", "p99 / median"))
    with bench.serve() as server:
        request = workload.as_json(1)
        peak = bench.saturate(server, request).per_second
        rate = SHARE * peak
        for arrivals, gaps in (("evenly spaced", evenly(rate)), ("independent (Poisson)", independently(rate))):
            answers = paced(server.port, request, gaps, 2 * bench.seconds)
            ratio = _row(section, f"{number(rate)} requests/s, {arrivals}", _latencies(answers))
            section.add(f"p99 / median at {SHARE:.0%} of the peak, {arrivals}", ratio, 5, at_most=True)
            if failed := sum(answer.status != 200 for answer in answers):
                section.notes.append(f"{arrivals}: {failed} requests failed")
        alone = _ask_in_turn(server, bench.seconds)
        _row(section, f"{CALLERS} callers in turn, nothing else", alone)
        seconds, beside = _beside_large(server)
        _row(section, f"the same beside a request of {LARGE_ROWS:,} rows ({seconds:.1f} s)", beside)
        section.notes.append(f"Peak: {number(peak)} requests/s. Latency counts from when a request was due.")
        section.add("longest 1-row request / the large one beside it", max(beside) / seconds, 0.1, at_most=True)
    return section


def _row(section: Section, what: str, latencies: list[float]) -> float:
    """p99 / median."""
    median, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    shown = [number(1e3 * value) for value in (median, p99, max(latencies))]
    section.rows.append((what, number(len(latencies)), *shown, number(p99 / median)))
    return p99 / median


def _latencies(answers: list[Answer]) -> list[float]:
    return [answer.latency for answer in answers if answer.status == 200]


def _beside_large(server: Server) -> tuple[float, list[float]]:
    """Seconds of the large request, and latencies of the small ones meanwhile."""
    large = workload.as_safetensors(LARGE_ROWS, np.uint8)
    took: list[float] = []

    def run() -> None:
        since = time.perf_counter()
        status, _ = ask(server.port, large)
        assert status == 200, f"the large request got status {status}"
        took.append(time.perf_counter() - since)

    thread = threading.Thread(target=run)
    thread.start()
    found = _ask_in_turn(server, None, thread)
    thread.join()
    return took[0], found


def _ask_in_turn(server: Server, seconds: float | None, beside: threading.Thread | None = None) -> list[float]:
    """Latencies of one request after the other with pauses, on connections that reach every worker."""
    found, raw, since = [], workload.as_json(1).raw, time.perf_counter()
    connections = [RawConnection(server.port) for _ in range(CALLERS)]
    for connection in cycle(connections):
        if (beside and not beside.is_alive()) or (seconds and time.perf_counter() - since > seconds):
            break
        sent = time.perf_counter()
        status, _ = connection.ask(raw)
        assert status == 200, f"a small request got status {status}"
        found.append(time.perf_counter() - sent)
        time.sleep(0.01)
    for connection in connections:
        connection.close()
    return found
