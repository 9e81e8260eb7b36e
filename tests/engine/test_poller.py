"""When servers look at the store: at once, about once an interval, and never as one."""

import itertools
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from elbod.engine.poller import Poller, delays
from tests.support import HANG

SERVERS, SECONDS = 1000, 20


def looks_of_a_fleet() -> list[list[float]]:
    """When each of the servers looks, all started at 0 with an interval of 1 s and a store that answers at once."""
    uniform = random.Random(0).uniform
    return [
        [0.0, *itertools.takewhile(lambda now: now < SECONDS, itertools.accumulate(delays(1.0, uniform)))]
        for _ in range(SERVERS)
    ]


def test_servers_that_start_together_are_spread_evenly_from_their_eleventh_look_on() -> None:
    looks = np.concatenate(looks_of_a_fleet())
    tenths, _ = np.histogram(looks, bins=10 * SECONDS, range=(0, SECONDS))
    # 100 in the mean, with a standard deviation of at most 10.
    assert tenths[100:].max() < 150
    assert tenths[100:].min() > 50
    # After five looks over a half of an interval.
    assert tenths[50:60].max() < 250
    seconds = tenths.reshape(SECONDS, 10).sum(axis=1)
    assert seconds[0] == SERVERS
    assert seconds.max() <= 1100


def test_servers_that_start_together_have_lost_their_coherence_with_their_eleventh_look() -> None:
    eleventh = np.array([one[10] for one in looks_of_a_fleet()])
    # Of independent phases it is 0.03 in the mean; by jitter alone it would be 0.52.
    assert abs(np.exp(2j * np.pi * eleventh).mean()) < 0.1


def test_no_server_waits_longer_than_eleven_tenths_of_an_interval() -> None:
    looks = looks_of_a_fleet()
    gaps = np.concatenate([np.diff(one) for one in looks])
    assert gaps.max() <= 1.1 + 1e-9
    assert min(np.diff(one)[:10].min() for one in looks) >= 1 - 1e-9
    gaps = np.concatenate([np.diff(one[10:]) for one in looks])
    assert gaps.min() >= 0.9
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
    assert all(looks.acquire(timeout=HANG) for _ in range(3))
    assert poller.looked.is_set()
    assert waiting.wait(HANG)
    poller.stop()
    assert not poller.is_alive()
    assert not looks.acquire(blocking=False)
