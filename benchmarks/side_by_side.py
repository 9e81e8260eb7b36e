"""Requests a second of every server: each is started, measured and ended once a round, one after the other."""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

import servers
import workload
from bench import CONNECTIONS, Bench
from load import Load, Request, generator
from report import Section, number, ratios, shown
from servers import Kind, NotStarted

Column = tuple[str, int]
ONE, MANY = ("JSON", 1), ("JSON", 64)
FLOATS, BYTES = ("binary float32", 64), ("binary uint8", 64)
COLUMNS: tuple[Column, ...] = (ONE, MANY, FLOATS, BYTES)


@dataclass
class Found:
    """By server and column, one load a round; by server, why it has none."""

    loads: dict[str, dict[Column, list[Load]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    failures: dict[str, str] = field(default_factory=dict)

    def rates(self, server: str, column: Column) -> list[float]:
        """Requests a second, one figure a round."""
        return [load.per_second for load in self.loads[server][column]]


def measure(bench: Bench, peers: list[str]) -> Section:
    found = Found()
    kinds = {"elbod": servers.ELBOD, "empty": servers.EMPTY} | {name: servers.KINDS[name] for name in peers}
    for _ in range(bench.rounds):
        for name, kind in kinds.items():
            if kind.title not in found.failures:
                _measure_one(bench, name, kind, found)
    return _section(bench, found, [servers.KINDS[name].title for name in peers])


def _measure_one(bench: Bench, name: str, kind: Kind, found: Found) -> None:
    try:
        with bench.serve(name, kind) as server:
            for column, request in _requests(kind).items():
                if kind is not servers.EMPTY:
                    bench.check(server, request, column[1])
                found.loads[kind.title][column].append(bench.saturate(server, request))
    except NotStarted as error:
        # A peer that failed in one round is not measured at all.
        found.failures[kind.title] = str(error)
        found.loads.pop(kind.title, None)


def _requests(kind: Kind) -> dict[Column, Request]:
    if kind is servers.EMPTY:
        return {ONE: kind.request(1)}
    asked = {column: kind.request(column[1]) for column in (ONE, MANY)}
    if kind is servers.ELBOD:
        asked |= {FLOATS: workload.as_safetensors(64), BYTES: workload.as_safetensors(64, "uint8")}
    return asked


def _section(bench: Bench, found: Found, peers: list[str]) -> Section:
    titles = [f"{rows} rows, {kind}: rows/s" for kind, rows in COLUMNS[1:]]
    columns = ("server", "1 row, JSON: requests/s", "median, p99 ms", *titles)
    section = Section(f"Side by side: {CONNECTIONS} connections, {generator()}, {bench.rounds} rounds", columns)
    for name in (*peers, servers.ELBOD.title, servers.EMPTY.title):
        if name in found.failures:
            section.rows.append((name, f"not measured: {found.failures[name]}", *[""] * (len(columns) - 2)))
            continue
        one = found.loads[name][ONE]
        latency = ", ".join(
            number(1e3 * median(values)) for values in zip(*((a.median, a.p99) for a in one), strict=True)
        )
        rates = [shown([rate * column[1] for rate in found.rates(name, column)]) for column in COLUMNS[1:]]
        section.rows.append((name, shown(found.rates(name, ONE)), latency, *rates))
        if failed := sum(load.failed for column in found.loads[name].values() for load in column):
            section.notes.append(f"{name}: {failed} requests failed")
    _judge(section, found, [name for name in peers if name not in found.failures])
    return section


def _judge(section: Section, found: Found, peers: list[str]) -> None:
    def own(column: Column) -> list[float]:
        return found.rates(servers.ELBOD.title, column)

    def fastest(column: Column) -> tuple[str, list[float]]:
        """The peer of the highest median, and its rounds."""
        rates = {name: found.rates(name, column) for name in peers}
        return max(rates.items(), key=lambda peer: median(peer[1]), default=("", []))

    (one, one_rates), (many, many_rates) = fastest(ONE), fastest(MANY)
    empty = found.rates(servers.EMPTY.title, ONE)
    section.add(f"1-row JSON / the fastest peer ({one})", ratios(own(ONE), one_rates), 4)
    section.add("1-row JSON / an empty FastAPI route", ratios(own(ONE), empty, 100), 35, unit="%")
    section.add(f"64-row JSON / the fastest peer's JSON ({many})", ratios(own(MANY), many_rates), 3)
    section.add(f"64-row binary float32 / the fastest peer's JSON ({many})", ratios(own(FLOATS), many_rates), 5)
