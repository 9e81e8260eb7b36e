import itertools

import pytest

from elbod.training import schedules


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine():
    rates = [schedules.learning_rate(t, total=110, warmup=10) for t in range(110)]

    assert rates[:10] == pytest.approx([(t + 1) / 10 for t in range(10)])
    assert rates[10] == 1
    assert rates[60] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001


def test_beta_rises_to_one_and_stays():
    assert [schedules.beta(t, warmup=4) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert schedules.beta(0, warmup=0) == 1


def test_early_averages_forget_fast():
    assert schedules.ema_decay(0, 0.999) == pytest.approx(0.1)
    assert schedules.ema_decay(10**6, 0.999) == 0.999
