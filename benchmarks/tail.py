"""Latency of one-row requests that arrive independently (Poisson), and of small requests while a large one runs."""

import contextlib
import threading
import time
from collections.abc import Callable
from itertools import cycle
from statistics import median

import numpy as np

import servers
import workload
from bench import CONNECTIONS, Bench
from load import OpenLoop, RawConnection, Request, ask, percentile, poisson
from report import Section, number, shown
from servers import Server

SHARES = (0.5, 0.7)
LARGE_ROWS, CALLERS = 60_000, 8


def measure(bench: Bench) -> Section:
    columns = ("1-row JSON, milliseconds", "requests/s", "median", "p99", "p99 / median", "generator, % of a core")
    section = Section(f"Latency: Poisson arrivals, {CONNECTIONS} kept connections, {bench.rounds} rounds", columns)
    loops: dict[tuple[float, str], list[OpenLoop]] = {
        (share, name): [] for share in SHARES for name in ("elbod", "empty")
    }
    peaks = []
    with bench.serve() as server, bench.serve("empty", servers.EMPTY) as empty:
        for seed in range(bench.rounds):
            peaks.append(bench.saturate(server, workload.as_json(1)).per_second)
            for (share, name), found in loops.items():
                asked = (server, workload.as_json(1)) if name == "elbod" else (empty, servers.EMPTY.request(1))
                gaps = poisson(share * peaks[-1], seed)
                loop = OpenLoop(asked[0].port, asked[1])
                found.append(loop.run(gaps, 2 * bench.seconds, CONNECTIONS))
        seconds, small = alongside(server, workload.as_safetensors(LARGE_ROWS, np.uint8))
    for (share, name), found in loops.items():
        _add(section, share, name, found, share * median(peaks))
    section.notes.append(
        f"elbod's peak, measured before each round: {shown(peaks)} requests/s. Latency counts from when a request was "
        "due. The generator runs on the server's cores: the last column is what it takes of one, and the same arrivals "
        "at the empty route show the latency that generator and sockets add."
    )
    section.notes.append(
        f"{CALLERS} callers take turns during a request of {LARGE_ROWS:,} rows ({seconds:.1f} s): median "
        f"{number(1e3 * percentile(small, 0.5))} ms, longest {number(1e3 * max(small))} ms."
    )
    section.add("longest 1-row request / the large one that runs meanwhile", max(small) / seconds, 0.1, at_most=True)
    return section


def _add(section: Section, share: float, name: str, loops: list[OpenLoop], rate: float) -> None:
    medians, p99s = ([1e3 * loop.percentile(of) for loop in loops] for of in (0.5, 0.99))
    tails = [p99 / middle for p99, middle in zip(p99s, medians, strict=True)]
    used = shown([100 * loop.share for loop in loops])
    title = f"{name}, {share:.0%} of elbod's peak"
    section.rows.append((title, number(rate), shown(medians), shown(p99s), shown(tails), used))
    if failed := sum(loop.failed for loop in loops):
        section.notes.append(f"{title}: {failed} requests failed")
    if name == "elbod":
        section.add(f"p99 / median at {share:.0%} of the peak", tails, 4, at_most=True)
        if share == SHARES[0]:
            section.add(f"p99 at {share:.0%} of the peak", p99s, 25, at_most=True, unit="ms")


def alongside(server: Server, large: Request) -> tuple[float, list[float]]:
    """Seconds of the large request, and latencies of small ones meanwhile, on connections that reach every worker."""
    took = [0.0]

    def run() -> None:
        since = time.perf_counter()
        status, _ = ask(server.port, large)
        assert status == 200, f"the large request got status {status}"
        took[0] = time.perf_counter() - since

    thread = threading.Thread(target=run)
    thread.start()
    found = _small_while(server, thread.is_alive)
    return took[0], found


def one_after_the_other(server: Server, seconds: float) -> list[float]:
    """Latencies of small requests on an idle server."""
    end = time.perf_counter() + seconds
    return _small_while(server, lambda: time.perf_counter() < end)


def _small_while(server: Server, go_on: Callable[[], bool]) -> list[float]:
    """Latencies of one-row requests, a hundred a second at most, of callers that take turns."""
    found, raw = [], workload.as_json(1).raw
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(RawConnection(server.port)) for _ in range(CALLERS)]
        for connection in cycle(connections):
            if not go_on():
                break
            sent = time.perf_counter()
            status, _ = connection.ask(raw)
            assert status == 200, f"a small request got status {status}"
            found.append(time.perf_counter() - sent)
            # Faster callers would queue behind each other.
            time.sleep(0.01)
    return found
