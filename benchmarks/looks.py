"""When a fleet looks at its store: schedules on a clock of their own, and how even the looks are."""

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from elbod.engine.poller import delays

Floats = npt.NDArray[np.float64]
Uniform = Callable[[float, float], float]


def jitter_alone(interval: float, uniform: Uniform = random.uniform) -> Iterator[float]:
    """A schedule to compare with: ±10 % and nothing else."""
    while True:
        yield interval * uniform(0.9, 1.1)


SCHEDULES: dict[str, Callable[..., Iterator[float]]] = {"jitter alone": jitter_alone, "as served": delays}


def on_a_virtual_clock(schedule: str, replicas: int, seconds: float, interval: float = 1.0) -> list[Floats]:
    """When each replica looks at a store that answers at once; all look first at 0."""
    uniform = random.Random(0).uniform
    return [
        np.array([0.0, *itertools.takewhile(lambda now: now < seconds, itertools.accumulate(times))])
        for times in (SCHEDULES[schedule](interval, uniform) for _ in range(replicas))
    ]


def coherence(looks: list[Floats], at: float, interval: float = 1.0) -> float:
    """|mean of exp(2πi t / interval)| over the replicas' last looks until `at`: 1 for a beat, √(π / 4n) for chance."""
    last = np.array([one[one <= at].max() for one in looks])
    return float(abs(np.exp(2j * np.pi * last / interval).mean()))


def buckets(times: Floats, since: float, until: float, width: float) -> npt.NDArray[np.int64]:
    """How many of `times` fall into each whole bucket of that width."""
    number = round((until - since) / width)
    return np.histogram(times, bins=number, range=(since, until))[0]


def peak(times: Floats, since: float, until: float, width: float) -> float:
    """The fullest bucket over the mean one."""
    counts = buckets(times, since, until, width)
    return float(counts.max() / counts.mean())
