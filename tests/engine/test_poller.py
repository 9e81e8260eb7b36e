"""When servers look at the store: at once, about once an interval, and never as one."""

import itertools
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from elbod.engine.poller import Poller, delays

SERVERS, SECONDS = 1000, 20


def looks_of_a_fleet() -> list[list[float]]:
    """When each of the servers looks, all started at 0 with an interval of 1 s and a store that answers at once."""
    uniform = random.Random(0).uniform
    return [
        [0.0, *itertools.takewhile(lambda now: now < SECONDS, itertools.accumulate(delays(1.0, uniform)))]
        for _ in range(SERVERS)
    ]


def test_servers_that_start_together_are_spread_evenly_from_their_third_look_on() -> None:
    looks = np.concatenate(looks_of_a_fleet())
    tenths, _ = np.histogram(looks, bins=10 * SECONDS, range=(0, SECONDS))
    # 100 in the mean, with a standard deviation of at most 10.
    assert tenths[20:].max() < 150
    assert tenths[20:].min() > 50
    seconds = tenths.reshape(SECONDS, 10).sum(axis=1)
    assert seconds[0] == SERVERS
    assert seconds.max() <= 1100


def test_servers_that_start_together_have_lost_their_coherence_with_their_third_look() -> None:
    last = np.array([max(look for look in one if look <= 3.1) for one in looks_of_a_fleet()])
    # Of independent phases it is 0.03 in the mean; without a first delay of its own it would be 0.94.
    assert abs(np.exp(2j * np.pi * last).mean()) < 0.1


def test_no_server_waits_longer_than_one_interval_and_a_half_and_later_than_eleven_tenths() -> None:
    looks = looks_of_a_fleet()
    assert max(np.diff(one)[:2].max() for one in looks) < 1.5
    gaps = np.concatenate([np.diff(one[2:]) for one in looks])
    assert gaps.min() >= 0.9
    assert gaps.max() <= 1.1
    assert gaps.mean() == pytest.approx(1, abs=0.01)


def test_a_poller_looks_at_once_then_after_each_delay_and_stops_while_it_waits() -> None:
    looks, waiting = threading.Semaphore(0), threading.Event()

    def waits() -> Iterator[float]:
        yield 0.0
        yield 0.0
        waiting.set()
        yield 3600.0

    poller = Poller(looks.release, waits())
    poller.start()
    assert all(looks.acquire(timeout=10) for _ in range(3))
    assert poller.looked.is_set()
    assert waiting.wait(10)
    poller.stop()
    assert not poller.is_alive()
    assert not looks.acquire(blocking=False)
