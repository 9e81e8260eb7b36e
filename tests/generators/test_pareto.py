"""k-hat estimates the tail index of the weights."""

import math

import numpy as np
import pytest

from elbod.generators.pareto import HEAVIEST, MIN_DRAWS, pareto_k


def _generalized_pareto(k: float, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Log of generalized Pareto samples by the inverse survival function, 1 + ((u^-k) - 1)/k > 0."""
    u = np.random.default_rng(seed).random(shape)
    return np.log1p(np.expm1(-k * np.log(u)) / k)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8, 1.2])
def test_k_hat_recovers_the_shape_of_a_generalized_pareto_distribution(k: float) -> None:
    """The median of 40 samples of 10,000 within 0.05, each one within five asymptotic deviations (1 + k)/sqrt(M)."""
    k_hat = pareto_k(_generalized_pareto(k, (40, 10_000)))
    tail = 3 * math.sqrt(10_000)
    assert np.median(k_hat) == pytest.approx(k, abs=0.05)
    assert np.abs(k_hat - k).max() < 5 * (1 + k) / math.sqrt(tail)


@pytest.mark.parametrize("k", [0.5, 1.2])
def test_k_hat_looks_at_the_largest_weights(k: float) -> None:
    """The reciprocal of a weight with a tail index k is bounded: with the sign flipped no heavy tail is seen."""
    log_w = _generalized_pareto(k, (40, 10_000))
    assert np.median(pareto_k(log_w)) > k - 0.05
    assert np.median(pareto_k(-log_w)) < 0.1


def test_the_bulk_of_the_weights_is_no_part_of_their_tail() -> None:
    """The tail is the 3 sqrt(K) largest: 400 heavy weights out of 10,000 above a bounded bulk show their own index."""
    bulk = np.log(np.random.default_rng(3).random((40, 9_600)))
    heavy = np.logaddexp(0, _generalized_pareto(0.8, (40, 400)))
    assert np.median(pareto_k(np.concatenate([bulk, heavy], axis=1))) == pytest.approx(0.8, abs=0.06)


def test_light_tails_have_a_small_k() -> None:
    """Exponential weights have k = 0, bounded ones k < 0, log-normal ones of a small spread next to none."""
    rng = np.random.default_rng(1)
    assert np.median(pareto_k(np.log(rng.standard_exponential((40, 10_000))))) == pytest.approx(0, abs=0.05)
    assert np.median(pareto_k(np.log(rng.random((40, 10_000))))) < -0.5
    assert np.median(pareto_k(0.1 * rng.standard_normal((40, 10_000)))) < 0.2


def test_k_hat_grows_with_the_power_of_the_weights() -> None:
    """log w scaled by a: the tail index of w^a is a times that of w, in the limit of a Pareto tail."""
    log_w = np.random.default_rng(2).standard_exponential((40, 10_000))
    for k in (0.3, 0.6, 0.9):
        assert np.median(pareto_k(k * log_w)) == pytest.approx(k, abs=0.05)


@pytest.mark.parametrize("count", [1, 2, 24])
def test_few_draws_have_no_k_hat(count: int) -> None:
    """Below 25 draws the tail is fewer than five points: NaN."""
    assert MIN_DRAWS == 25
    assert np.isnan(pareto_k(np.random.default_rng(0).standard_normal((3, count)))).all()
    assert np.isfinite(pareto_k(np.random.default_rng(0).standard_normal((3, 25)))).all()


def test_equal_weights_have_no_k_hat() -> None:
    """A range of log weights under 1e-9 is rounding: an exact posterior has no tail."""
    noise = np.random.default_rng(0).random((1, 100))
    assert np.isnan(pareto_k(-300 + 1e-10 * noise)).all()
    assert np.isfinite(pareto_k(-300 + 1e-8 * noise)).all()


def test_a_single_overwhelming_weight_is_the_heaviest_tail() -> None:
    """Where all others underflow beside it k-hat is the largest number that JSON holds, and not missing."""
    assert pareto_k(np.array([[0.0] + [-2000.0 - i for i in range(99)]])).tolist() == [HEAVIEST]


def test_rows_do_not_mix() -> None:
    """Each row has the k-hat that it has alone, in any order of its draws."""
    log_w = _generalized_pareto(0.7, (5, 333))
    together = pareto_k(log_w)
    assert np.array_equal(together, np.concatenate([pareto_k(log_w[i : i + 1]) for i in range(5)]))
    assert np.array_equal(together, pareto_k(log_w[:, ::-1]))


def test_log_weights_are_left_as_they_were() -> None:
    """Sorting happens in a copy: the draws keep their order for the caller."""
    log_w = _generalized_pareto(0.7, (2, 100))
    kept = log_w.copy()
    pareto_k(log_w)
    assert np.array_equal(log_w, kept)
