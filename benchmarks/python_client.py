"""The Python client next to a loop that sends the same bytes on one kept connection and reads nothing of the answer."""

import time
from collections.abc import Callable

import numpy as np

import workload
from bench import Bench
from elbod_client import Client
from load import HOST, RawConnection
from report import Section, both, mean

SIZES, JUDGED, ROUNDS = (1, 64, 1_024), 64, 3


def measure(bench: Bench) -> Section:
    section = Section("Python client: requests/s, one caller", ("binary float32", "client", "raw loop", "client / raw"))
    with (
        bench.serve() as server,
        RawConnection(server.port) as connection,
        Client(f"http://{HOST}:{server.port}", timeout=60) as client,
    ):
        for n in SIZES:
            x, raw = workload.rows(n, np.float32), workload.as_safetensors(n, seed=0).raw
            loops: dict[str, Callable[[], object]] = {
                "client": lambda x=x: client.elbo(x),  # type: ignore[misc]
                "raw": lambda raw=raw: connection.ask(raw),  # type: ignore[misc]
            }
            found: dict[str, list[float]] = {"client": [], "raw": []}
            for turn in range(ROUNDS):
                for name in sorted(loops, reverse=bool(turn % 2)):
                    found[name].append(_per_second(loops[name], bench.seconds / 2))
            share = 100 * mean(found["client"]) / mean(found["raw"])
            section.rows.append((f"{n:,} rows", both(found["client"]), both(found["raw"]), f"{share:.0f} %"))
            if n == JUDGED:
                section.add(f"client / raw loop, {n} rows", share, 80, unit="%")
    return section


def _per_second(step: Callable[[], object], seconds: float) -> float:
    step()
    since, count = time.perf_counter(), 0
    while time.perf_counter() - since < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - since)
