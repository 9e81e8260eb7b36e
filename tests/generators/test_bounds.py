"""The estimators of the bounds and of their errors, as pure functions of log-densities."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbod.generators.bounds import (
    Elbo,
    Floats,
    ImportanceWeighted,
    bits_per_dim,
    elbo,
    importance_weighted,
    pareto_k_limit,
    summarize,
)
from elbod.generators.terms import ClosedForm, Conditional

ELBO_FIELDS = ("elbo", "standard_error", "reconstruction", "kl", "log_joint", "entropy")
WEIGHT_FIELDS = ("iwae", "iwae_standard_error", "effective_sample_size", "pareto_k", "gap", "gap_standard_error")

rows = st.integers(1, 40)
counts = st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 7, 8, 9, 24, 25, 127, 128, 129, 1024]))
rngs = st.integers(0, 2**32).map(np.random.default_rng)
scales = st.sampled_from([1e-3, 1.0, 30.0, 1e4])


def _terms(rng: np.random.Generator, n: int, draws: int, scale: float) -> tuple[Floats, Conditional[Floats]]:
    """r, and k = -(c + h)."""
    c, h = scale * rng.standard_normal((n, draws)), scale * rng.standard_normal((n, draws))
    return c, Conditional(kl=-(c + h), log_prior=c, entropy=h)


def _same(a: Elbo | ImportanceWeighted, b: Elbo | ImportanceWeighted, fields: tuple[str, ...], row: int) -> None:
    for name in fields:
        assert np.array_equal(getattr(a, name)[row : row + 1], getattr(b, name), equal_nan=True), name


@given(rngs, rows, counts, scales, st.booleans())
def test_the_two_forms_of_the_bound_are_equal(
    rng: np.random.Generator, n: int, count: int, scale: float, sampled: bool
) -> None:
    """elbo = reconstruction - kl = log_joint + entropy to 1e-9 of the largest part."""
    r = -100 + scale * rng.standard_normal((n, count))
    _, terms = _terms(rng, n, count if sampled else 1, scale)
    e = elbo(r, terms)
    parts = (np.ones(n), np.abs(e.reconstruction), np.abs(e.log_joint), np.abs(e.entropy))
    tolerance = 1e-9 * np.maximum.reduce(parts)
    assert (np.abs(e.elbo - (e.reconstruction - e.kl)) <= tolerance).all()
    assert (np.abs(e.elbo - (e.log_joint + e.entropy)) <= tolerance).all()


@given(rngs, rows, counts)
def test_every_part_is_a_mean_over_draws(rng: np.random.Generator, n: int, count: int) -> None:
    """Each part is `math.fsum` over its row divided by S, to 1e-13."""
    r = -100 + rng.standard_normal((n, count))
    c, terms = _terms(rng, n, count, 1.0)
    e = elbo(r, terms)
    expected = {"elbo": r - terms.kl, "reconstruction": r, "kl": terms.kl, "log_joint": r + c, "entropy": terms.entropy}
    for name, values in expected.items():
        mean = [math.fsum(row) / count for row in values]
        np.testing.assert_allclose(getattr(e, name), mean, rtol=1e-13, atol=1e-13, err_msg=name)


@given(rngs, rows, st.integers(2, 300))
def test_the_standard_error_is_that_of_the_paired_mean(rng: np.random.Generator, n: int, count: int) -> None:
    """sd(r_s - k_s, ddof=1)/sqrt(S): paired, so that noise shared by r and k cancels."""
    r = rng.standard_normal((n, count))
    k = rng.standard_normal((n, count))
    e = elbo(r, Conditional(kl=k, log_prior=-k, entropy=np.zeros_like(k)))
    np.testing.assert_allclose(e.standard_error, (r - k).std(axis=1, ddof=1) / math.sqrt(count), rtol=1e-10)
    paired = elbo(r, Conditional(kl=r - 1, log_prior=1 - r, entropy=np.zeros_like(r)))
    assert (paired.standard_error < 1e-15).all()


def test_the_squared_standard_error_is_unbiased() -> None:
    """Its mean over 100,000 groups of three draws is Var/3, within 2 %; with a divisor of S it would be 2 Var/9."""
    r = np.random.default_rng(0).standard_normal((100_000, 3))
    closed = np.zeros((100_000, 1))
    e = elbo(r, ClosedForm(kl=closed, log_prior=closed, entropy=closed))
    assert np.square(e.standard_error).mean() == pytest.approx(1 / 3, rel=0.02)
    # The gap's error too: relative weights do not move where they all are one, so log w's own spread is what is left.
    w = importance_weighted(1e-4 * r)
    assert np.square(w.iwae_standard_error).mean() == pytest.approx(1e-8 / 3, rel=0.02)


@given(rngs, rows)
def test_one_draw_has_no_error(rng: np.random.Generator, n: int) -> None:
    """S = 1 gives NaN errors and K = 1 gives a gap of zero, without a warning."""
    r = rng.standard_normal((n, 1))
    _, terms = _terms(rng, n, 1, 1.0)
    assert np.isnan(elbo(r, terms).standard_error).all()
    w = importance_weighted(r)
    assert np.isnan(w.iwae_standard_error).all()
    assert np.isnan(w.gap_standard_error).all()
    assert np.isnan(w.pareto_k).all()
    assert np.array_equal(w.iwae, r[:, 0])
    assert (w.gap == 0).all()
    assert (w.effective_sample_size == 1).all()


@given(rngs, rows, counts, scales, st.booleans(), st.integers(0, 2**32))
def test_a_rows_numbers_are_bit_identical_alone_and_in_company(
    rng: np.random.Generator, n: int, count: int, scale: float, sampled: bool, random: int
) -> None:
    """Alone, in any order and company, and from any memory layout, a row has the same bits."""
    r = -100 + scale * rng.standard_normal((n, count))
    _, terms = _terms(rng, n, count if sampled else 1, scale)
    both = elbo(r, terms), importance_weighted(r - terms.kl)

    def take(chosen: Floats, order: str) -> tuple[Elbo, ImportanceWeighted]:
        parts = [np.array(a[chosen], order=order) for a in (r, terms.kl, terms.log_prior, terms.entropy)]  # type: ignore[call-overload]
        log_weights = np.asarray(parts[0] - parts[1], order=order)  # type: ignore[call-overload]
        return elbo(parts[0], Conditional(*parts[1:])), importance_weighted(log_weights)

    shuffled = np.random.default_rng(random).permutation(n)
    for order in ("C", "F"):
        company = take(shuffled, order)
        for row in {0, n // 2, n - 1}:
            alone = take(shuffled[row : row + 1], order)
            for whole, mine, beside, fields in zip(both, alone, company, (ELBO_FIELDS, WEIGHT_FIELDS), strict=True):
                _same(whole, mine, fields, int(shuffled[row]))
                _same(beside, mine, fields, row)


@given(rngs, rows, counts, scales)
def test_the_importance_weighted_bound_is_the_log_of_the_mean_weight(
    rng: np.random.Generator, n: int, count: int, scale: float
) -> None:
    """iwae = logsumexp(log w) - log K, between mean(log w) and max(log w), and gap = iwae - mean(log w) >= 0."""
    log_w = -300 + scale * rng.standard_normal((n, count))
    w = importance_weighted(log_w)
    for row in range(n):
        top = log_w[row].max()
        expected = top + math.log(math.fsum(np.exp(log_w[row] - top)) / count)
        assert w.iwae[row] == pytest.approx(expected, rel=1e-12)
    assert (w.iwae <= log_w.max(1)).all()
    assert (w.gap >= 0).all()
    np.testing.assert_allclose(w.gap, w.iwae - log_w.mean(1), rtol=1e-9, atol=1e-9)


@given(rngs, rows, counts, st.sampled_from([0.0, 1e-6, 1.0, 30.0, 1e4]))
def test_the_effective_sample_size_lies_between_one_and_k(
    rng: np.random.Generator, n: int, count: int, scale: float
) -> None:
    """(sum w)^2 / sum w^2: K for equal weights, 1 for a single one; and the relative error is at most 1."""
    log_w = scale * rng.standard_normal((n, count))
    w = importance_weighted(log_w)
    relative = np.exp(log_w - log_w.max(1, keepdims=True))
    np.testing.assert_allclose(w.effective_sample_size, relative.sum(1) ** 2 / (relative**2).sum(1), rtol=1e-12)
    assert (w.effective_sample_size >= 1 - 1e-12).all()
    assert (w.effective_sample_size <= count * (1 + 1e-12)).all()
    assert not (w.iwae_standard_error > 1 + 1e-12).any()
    if scale == 0:
        np.testing.assert_allclose(w.effective_sample_size, count, rtol=1e-12)


@given(rngs, rows, st.integers(2, 24))
def test_errors_of_the_weights_are_those_of_the_delta_method(rng: np.random.Generator, n: int, count: int) -> None:
    """sqrt(Var(w)/K)/mean(w) and sd(w/mean(w) - log w)/sqrt(K), both with ddof=1."""
    log_w = rng.standard_normal((n, count))
    weights = np.exp(log_w)
    relative = weights / weights.mean(1, keepdims=True)
    w = importance_weighted(log_w - 700)
    np.testing.assert_allclose(w.iwae_standard_error, relative.std(1, ddof=1) / math.sqrt(count), rtol=1e-9)
    gap_error = (relative - log_w).std(1, ddof=1) / math.sqrt(count)
    np.testing.assert_allclose(w.gap_standard_error, gap_error, rtol=1e-9, atol=1e-13)


def test_one_dominant_weight_has_a_relative_error_of_one() -> None:
    """The largest possible error: all mass on one of K draws; a size of 1, a gap of about the mean distance."""
    w = importance_weighted(np.array([[0.0] + [-2000.0] * 9]))
    assert w.iwae_standard_error[0] == pytest.approx(1, rel=1e-12)
    assert w.effective_sample_size[0] == 1
    assert w.iwae[0] == pytest.approx(-math.log(10))


@given(rngs, rows, counts, st.floats(-1e4, 1e4))
def test_a_constant_added_to_log_weights_moves_the_bound_only(
    rng: np.random.Generator, n: int, count: int, constant: float
) -> None:
    """Errors, effective sample size, k-hat and gap do not see the scale of the weights."""
    log_w = rng.standard_normal((n, count))
    before, after = importance_weighted(log_w), importance_weighted(log_w + constant)
    np.testing.assert_allclose(after.iwae, before.iwae + constant, rtol=1e-12, atol=1e-12)
    for name in WEIGHT_FIELDS[1:]:
        a, b = getattr(after, name), getattr(before, name)
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, err_msg=name)


def test_equal_weights_have_no_tail_and_no_gap() -> None:
    """k-hat is NaN, the gap zero, and the bound exact."""
    w = importance_weighted(np.full((2, 100), -321.0))
    assert np.isnan(w.pareto_k).all()
    assert (w.iwae == -321).all()
    assert (w.gap == 0).all()
    assert (w.iwae_standard_error == 0).all()
    assert (w.effective_sample_size == 100).all()


def test_an_error_that_would_understate_is_withheld() -> None:
    """k-hat over its limit and few effective draws: no error. Heavy or light tails alone keep theirs."""
    rng = np.random.default_rng(0)
    heavy = 1.2 * rng.standard_exponential((1, 1000))
    light = 0.2 * rng.standard_normal((1, 1000))
    # A heavy tail of differences too small to matter: k-hat knows no scale, the effective sample size does.
    harmless = np.log(1e6 + np.exp(heavy))
    w = importance_weighted(np.concatenate([heavy, light, harmless]))
    limit = pareto_k_limit(1000)
    assert (w.pareto_k > limit).tolist() == [True, False, True]
    assert (w.effective_sample_size < 900).tolist() == [True, False, False]
    assert np.isnan(w.iwae_standard_error).tolist() == [True, False, False]
    assert np.isfinite(w.gap_standard_error).all()


@pytest.mark.parametrize(("count", "limit"), [(25, 1 - 1 / math.log10(25)), (100, 0.5), (1000, 2 / 3), (10**5, 0.7)])
def test_the_limit_of_k_hat_grows_with_the_draws_to_seven_tenths(count: int, limit: float) -> None:
    """min(1 - 1/log10 K, 0.7)."""
    assert pareto_k_limit(count) == pytest.approx(limit)


def test_bits_per_dim_of_independent_fair_coins_is_one() -> None:
    """-L/(D ln 2): D fair coins have log p = -D ln 2, D bytes 8 bits each."""
    assert bits_per_dim(np.array([-784 * math.log(2), -784 * math.log(256)]), 784) == pytest.approx([1, 8])


@given(rngs, st.integers(2, 50))
def test_a_summary_is_the_mean_of_the_rows_with_both_errors(rng: np.random.Generator, n: int) -> None:
    """mean, sd(rows, ddof=1)/sqrt(n), and sqrt(sum se^2)/n, the error of the mean from Monte-Carlo noise alone."""
    values, errors = rng.standard_normal(n) - 100, rng.random(n)
    s = summarize(values, errors)
    assert s.n == n
    assert s.mean == pytest.approx(math.fsum(values) / n, rel=1e-13)
    assert s.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(n))
    assert s.monte_carlo_standard_error == pytest.approx(math.sqrt(math.fsum(errors**2)) / n)


def test_a_summary_of_one_row_has_no_spread() -> None:
    """One row has a mean and its own Monte-Carlo error; an unknown error stays unknown."""
    s = summarize(np.array([-3.0]), np.array([0.5]))
    assert (s.mean, s.monte_carlo_standard_error, s.n) == (-3, 0.5, 1)
    assert math.isnan(s.standard_error)
    assert math.isnan(summarize(np.array([-3.0, -4.0]), np.array([0.5, math.nan])).monte_carlo_standard_error)
