"""The table of `watchers.py`: how even a fleet's requests are, for real and on paper."""

from collections.abc import Sequence

import numpy as np

from fleet import Run
from looks import SCHEDULES, Floats, buckets, coherence, on_a_virtual_clock, peak
from store import say

SETTLED = 2.0  # seconds after which the burst of the start is over
REQUESTS_LIMIT = 1100
COHERENCE_AT = (1, 2, 10, 60)


def compare(runs: dict[str, Run], replicas: int, seconds: float) -> None:
    """One table of the runs and of the virtual clock; the targets, which are of all replicas as served."""
    columns = {f"real, {name}": of_a_run(found) for name, found in runs.items()}
    for name in SCHEDULES:
        columns[f"virtual, {replicas:,} {name}"] = on_paper(name, replicas, seconds)
    rows = [(row, *(column.get(row, "") for column in columns.values())) for row in next(iter(columns.values()))]
    table((f"{seconds:.0f} s", *columns), rows)
    served = list(runs.values())[-1]
    lists = served.requests["LIST"][0]
    each_second = buckets(lists, 0, served.seconds, 1)
    rates = {
        "list requests a second, mean": each_second.mean(),
        "in the fullest second after the first": each_second[1:].max(),
        "in the first second, in which all started": each_second[0],
    }
    rows = [
        (name, f"{value:,.0f}", f"{REQUESTS_LIMIT:,}", "met" if value <= REQUESTS_LIMIT else "missed")
        for name, value in rates.items()
    ]
    table(("target", "found", "limit", ""), rows)


def of_a_run(found: Run) -> dict[str, str]:
    lists, took = found.requests["LIST"]
    gets = found.requests["GET"][0]
    rows = evenness(lists, found.looks, found.seconds)
    rows["look behind its schedule, ms: median, 99 %, longest"] = quantiles(1e3 * found.lags, (0.5, 0.99, 1))
    rows["a list request takes, ms: median, 99 %, longest"] = quantiles(1e3 * took, (0.5, 0.99, 1))
    for name, (since, _) in zip(("publication", "promotion"), found.acts, strict=True):
        caused = gets[(gets >= since) & (gets < since + 5)]
        rows |= spread(name, caused, since)
    rows["promotion resolved, s: first, median, last replica"] = quantiles(
        found.noticed[2] - found.acts[1][0], (0, 0.5, 1), 2
    )
    return rows


def on_paper(schedule: str, replicas: int, seconds: float) -> dict[str, str]:
    """The same rows by the virtual clock; a look that sees a change gets two objects, alias entry and manifest."""
    looks = on_a_virtual_clock(schedule, replicas, seconds)
    rows = evenness(np.concatenate(looks), looks, seconds)
    for name, since in (("publication", seconds / 4), ("promotion", seconds / 2)):
        noticed = np.array([one[one >= since].min() for one in looks])
        rows |= spread(name, np.repeat(noticed, 2), since)
    rows["promotion resolved, s: first, median, last replica"] = quantiles(noticed - since, (0, 0.5, 1), 2)
    return rows


def evenness(lists: Floats, looks: list[Floats], seconds: float) -> dict[str, str]:
    each_second = buckets(lists, 0, seconds, 1)
    rows = {
        "list requests a second, mean": f"{each_second.mean():,.0f}",
        "in the first second": f"{each_second[0]:,}",
        "in the fullest second after that": f"{each_second[1:].max():,}",
        "fullest 100 ms / mean, 2 s to 10 s": f"{peak(lists, SETTLED, 10, 0.1):.1f}",
        "fullest 100 ms / mean, from 10 s on": f"{peak(lists, 10, seconds, 0.1):.1f}",
    }
    for at in COHERENCE_AT:
        if at <= seconds:
            rows[f"coherence after {at} s"] = f"{coherence(looks, at):.2f}"
    return rows


def spread(name: str, caused: Floats, since: float) -> dict[str, str]:
    """How even the GETs that a change causes are, from the change until the last of them."""
    until = since + 0.1 * np.ceil((caused.max() - since) / 0.1)
    peaks = [f"{peak(caused, since, until, width):.1f}" for width in (0.1, 0.01)]
    return {
        f"{name}: GETs caused, in seconds": f"{len(caused):,} in {caused.max() - since:.2f}",
        f"{name}: fullest 100 ms, 10 ms / mean": ", ".join(peaks),
    }


def quantiles(values: Floats, at: tuple[float, ...], digits: int = 0) -> str:
    return ", ".join(f"{value:,.{digits}f}" for value in np.quantile(values, at))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    say("\n".join(["", *(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)), "", ""]))
