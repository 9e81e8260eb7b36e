"""Requests a second of every server, one after the other, in two rounds of opposite order."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

import servers
import workload
from bench import CONNECTIONS, Bench
from load import Load, Request, generator
from report import Section, both, mean, number
from servers import Kind, NotStarted, Server

Column = tuple[str, int]
ONE, MANY = ("JSON", 1), ("JSON", 64)
FLOATS, BYTES = ("binary float32", 64), ("binary uint8", 64)
COLUMNS: tuple[Column, ...] = (ONE, MANY, FLOATS, BYTES)
# The empty application: without a body, and with that of a request.
NOTHING, BODY = "FastAPI, empty", "FastAPI, takes the body"


@dataclass
class Found:
    """By server and column, one load a round; by server, why it has none."""

    loads: dict[str, dict[Column, list[Load]]]
    failures: dict[str, str]

    def per_second(self, server: str, column: Column) -> list[float]:
        return [load.per_second for load in self.loads[server][column]]

    def fastest(self, names: list[str], column: Column) -> float:
        return max((mean(self.per_second(name, column)) for name in names if self.loads[name][column]), default=np.nan)


def measure(bench: Bench, peers: list[str]) -> Section:
    found = Found(defaultdict(lambda: defaultdict(list)), {})
    kinds = {"empty": servers.EMPTY, "elbod": servers.ELBOD} | {name: servers.KINDS[name] for name in peers}
    order = list(kinds)
    for names in (order, order[::-1]):
        for name in names:
            if kinds[name].title not in found.failures:
                _measure_one(bench, name, kinds[name], found)
    return _section(found, [servers.KINDS[name].title for name in peers])


def _measure_one(bench: Bench, name: str, kind: Kind, found: Found) -> None:
    try:
        with bench.serve(name, kind) as server:
            for title, column, request in _requests(server, kind):
                if kind is not servers.EMPTY:
                    bench.check(server, request, column[1])
                found.loads[title][column].append(bench.saturate(server, request))
    except NotStarted as error:
        found.failures[kind.title] = str(error)


def _requests(server: Server, kind: Kind) -> list[tuple[str, Column, Request]]:
    if kind is servers.EMPTY:
        bodies = [(BODY, column, kind.request(column[1])) for column in (ONE, MANY)]
        floats = workload.as_safetensors(64)
        binary = Request("/body", floats.body, floats.media_type)
        return [(NOTHING, ONE, Request("/empty")), *bodies, (BODY, FLOATS, binary)]
    asked = [(kind.title, column, kind.request(column[1])) for column in (ONE, MANY)]
    if kind is servers.ELBOD:
        asked.append((kind.title, FLOATS, workload.as_safetensors(64)))
        asked.append((kind.title, BYTES, workload.as_safetensors(64, np.uint8)))
    return asked


def _section(found: Found, peers: list[str]) -> Section:
    titles = [f"{rows} rows, {kind}: rows/s" for kind, rows in COLUMNS[1:]]
    columns = ("server", "1 row, JSON: requests/s", "median, p99 ms", *titles)
    section = Section(f"Side by side: {CONNECTIONS} connections, {generator()}, two rounds", columns)
    for name in (*peers, "elbod", BODY, NOTHING):
        if name in found.failures:
            section.rows.append((name, f"not measured: {found.failures[name]}", *[""] * (len(columns) - 2)))
            continue
        loads = found.loads[name]
        one = loads[ONE]
        latency = both([1e3 * mean([load.median for load in one]), 1e3 * mean([load.p99 for load in one])])
        rates = [both([rate * column[1] for rate in found.per_second(name, column)]) for column in COLUMNS[1:]]
        section.rows.append((name, both(found.per_second(name, ONE)), latency, *rates))
        if failed := sum(load.failed for column in loads.values() for load in column):
            section.notes.append(f"{name}: {failed} requests failed")
    own = {column: mean(found.per_second("elbod", column)) for column in COLUMNS}
    fastest = {column: found.fastest(peers, column) for column in (ONE, MANY)}
    section.add("1-row JSON / the fastest peer", own[ONE] / fastest[ONE], 4)
    section.add("1-row JSON / empty FastAPI route", 100 * own[ONE] / mean(found.per_second(NOTHING, ONE)), 60, unit="%")
    section.add("64-row JSON / the fastest peer", own[MANY] / fastest[MANY], 3)
    section.add("64-row binary float32 / the fastest peer's JSON", own[FLOATS] / fastest[MANY], 4)
    section.notes.append(f"Fastest peer: {number(fastest[ONE])} requests/s, {number(64 * fastest[MANY])} rows/s.")
    return section
