"""Seconds a row and resident memory from a thousand rows to a million, one caller, requests of at most 8,192 rows."""

import time

import workload
from bench import Bench
from load import RawConnection
from report import Section, mean, number
from servers import Server

SIZES, QUICK_SIZES, REQUEST_ROWS = (10**3, 10**4, 10**5, 10**6), (10**3, 10**4), 8_192


def measure(bench: Bench) -> Section:
    section = Section("Growth: binary float32, one caller", ("rows", "microseconds a row", "resident memory, MB"))
    with bench.serve() as server, RawConnection(server.port) as connection:
        section.rows.append(("ready", "", number(server.resident_bytes() / 1e6)))
        # Twice: buffers grow to the largest request and stay.
        for _ in range(2):
            _score(connection, REQUEST_ROWS)
        first = server.resident_bytes()
        section.rows.append((f"after two requests of {REQUEST_ROWS:,}", "", number(first / 1e6)))
        cost = {rows: _seconds_a_row(bench, connection, rows, section, server) for rows in _sizes(bench)}
        section.add("most / least seconds a row", max(cost.values()) / min(cost.values()), 1.1, at_most=True)
        section.add("resident memory at the end / at first", server.resident_bytes() / first, 1.1, at_most=True)
    return section


def _sizes(bench: Bench) -> tuple[int, ...]:
    return QUICK_SIZES if bench.quick else SIZES


def _seconds_a_row(bench: Bench, connection: RawConnection, rows: int, section: Section, server: Server) -> float:
    """The mean; few rows are scored again and again, so that every size is timed for as long at least."""
    found: list[float] = []
    while sum(found) * rows < bench.seconds:
        found.append(_score(connection, rows) / rows)
    section.rows.append((number(rows), number(1e6 * mean(found)), number(server.resident_bytes() / 1e6)))
    return mean(found)


def _score(connection: RawConnection, rows: int) -> float:
    """Seconds that it took."""
    requests = [min(REQUEST_ROWS, rows - start) for start in range(0, rows, REQUEST_ROWS)]
    raw = {n: workload.as_safetensors(n).raw for n in set(requests)}
    since = time.perf_counter()
    for n in requests:
        status, _ = connection.ask(raw[n])
        assert status == 200, f"a request of {n} rows got status {status}"
    return time.perf_counter() - since
