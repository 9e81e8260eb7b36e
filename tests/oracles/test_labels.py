"""Oracle 11: the marginal over labels bounds log p(x), where log p(x) is known.

p(x|z, y) = N(x; w_y z + b_y, s^2) and p(z) = N(0, 1), so that p(x|y) = N(x; b_y, w_y^2 + s^2).
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from elbod.generators.bounds import Floats, LabelDraws, elbo, importance_weighted

PRIOR = np.array([0.2, 0.5, 0.3])
SLOPE, SHIFT, NOISE = np.array([1.5, -0.7, 0.4]), np.array([0.0, 1.0, -1.0]), 0.5
X = np.array([0.3, -0.8, 1.4])
ROUNDS = 4_000


def log_normal(x: Floats, mean: Floats, variance: Floats) -> Floats:
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * math.pi * variance))


def log_evidence() -> Floats:
    joint = np.log(PRIOR) + log_normal(X[:, None], SHIFT, SLOPE**2 + NOISE**2)
    return np.logaddexp.reduce(joint, axis=1)


def posterior(shift: float = 0.0, stretch: float = 1.0) -> tuple[Floats, Floats]:
    """Mean and stddev of p(z|x, y), (n, C), or of a q that misses it."""
    precision = SLOPE**2 / NOISE**2 + 1
    mean = SLOPE * (X[:, None] - SHIFT) / NOISE**2 / precision
    return mean + shift, np.broadcast_to(stretch / np.sqrt(precision), mean.shape)


def draws(mean: Floats, stddev: Floats, samples: int, seed: int = 0, *, shared: bool = True) -> LabelDraws:
    """(n, C, S) terms; the labels of a row share their noise, as they do in answers, or have their own."""
    rows, labels = mean.shape
    eps = np.random.default_rng(seed).standard_normal((rows, 1 if shared else labels, samples))
    z = mean[..., None] + stddev[..., None] * eps
    r = log_normal(X[:, None, None], SLOPE[:, None] * z + SHIFT[:, None], np.array(NOISE**2))
    log_q = log_normal(z, mean[..., None], stddev[..., None] ** 2)
    return LabelDraws(np.log(PRIOR), r, log_normal(z, np.array(0.0), np.array(1.0)), log_q)


def repeated(found: LabelDraws, samples: int) -> Floats:
    """The bound of S draws many times over, (n, rounds), from one long stream."""
    bounds = []
    for start in range(0, found.reconstruction.shape[2], samples):
        cut = (v[..., start : start + samples] for v in (found.reconstruction, found.log_prior, found.log_q))
        bounds.append(elbo(*LabelDraws(found.label_log_prob, *cut).marginal()).elbo)
    return np.stack(bounds, axis=1)


@pytest.mark.parametrize("samples", [1, 2, 16])
def test_with_exact_posteriors_every_draw_gives_log_p_of_x(samples: int) -> None:
    found = draws(*posterior(), samples)
    np.testing.assert_allclose(elbo(*found.marginal()).elbo, log_evidence(), rtol=0, atol=1e-10)
    weights = found.marginal_log_weights()
    np.testing.assert_allclose(weights, np.tile(log_evidence()[:, None], samples), rtol=0, atol=1e-10)


def test_with_exact_posteriors_rho_is_the_posterior_of_the_label() -> None:
    joint = np.log(PRIOR) + log_normal(X[:, None], SHIFT, SLOPE**2 + NOISE**2)
    expected = np.exp(joint - log_evidence()[:, None])
    np.testing.assert_allclose(draws(*posterior(), 3).posterior(), expected, rtol=1e-10)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("samples", [1, 4])
def test_the_marginal_never_exceeds_log_p_of_x_in_expectation(samples: int, shared: bool) -> None:
    """For a q that misses the posterior; exp of the bound cannot exceed p(x) either, which is the stronger theorem."""
    mean, stddev = posterior(shift=0.2, stretch=1.4)
    bounds = repeated(draws(mean, stddev, samples * ROUNDS, seed=samples, shared=shared), samples)
    error = bounds.std(axis=1, ddof=1) / math.sqrt(ROUNDS)
    assert (bounds.mean(axis=1) + 4 * error < log_evidence()).all()
    ratio = np.exp(bounds - log_evidence()[:, None])
    assert (ratio.mean(axis=1) <= 1 + 4 * ratio.std(axis=1, ddof=1) / math.sqrt(ROUNDS)).all()


def test_closed_form_terms_would_exceed_log_p_of_x() -> None:
    """The trap: with a closed-form KL the noise of r is left in L_y, and logsumexp is convex."""
    mean, stddev = posterior()
    found = draws(mean, stddev, ROUNDS, seed=1, shared=False)
    kl = 0.5 * (mean**2 + stddev**2 - 1) - np.log(stddev)
    trapped = np.logaddexp.reduce(np.log(PRIOR)[:, None] + found.reconstruction - kl[..., None], axis=1)
    error = trapped.std(axis=1, ddof=1) / math.sqrt(ROUNDS)
    assert (trapped.mean(axis=1) - 4 * error > log_evidence()).all()


def test_importance_weights_of_the_marginal_are_unbiased_and_their_bound_grows_with_draws() -> None:
    mean, stddev = posterior(shift=0.2, stretch=1.4)
    weights = draws(mean, stddev, 50 * ROUNDS, seed=2).marginal_log_weights()
    ratio = np.exp(weights - log_evidence()[:, None])
    assert (abs(ratio.mean(1) - 1) < 4 * ratio.std(1, ddof=1) / math.sqrt(ratio.shape[1])).all()
    one, many = (importance_weighted(weights.reshape(-1, k)).iwae.reshape(len(X), -1).mean(1) for k in (1, 50))
    assert (one < many).all()
    assert (many <= log_evidence()).all()


def test_the_two_forms_are_equal_and_the_parts_are_those_of_a_label_that_is_a_latent_too() -> None:
    found = elbo(*draws(*posterior(0.3, 1.2), 8).marginal())
    np.testing.assert_allclose(found.elbo, found.reconstruction - found.kl, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.elbo, found.log_joint + found.entropy, rtol=0, atol=1e-12)


def test_the_reported_error_is_the_spread_of_repeated_bounds() -> None:
    mean, stddev = posterior(shift=0.2, stretch=1.4)
    stream = draws(mean, stddev, 64 * ROUNDS, seed=3)
    bounds = repeated(stream, 64)
    first = [elbo(*draws(mean, stddev, 64, seed=s).marginal()).standard_error for s in range(50)]
    np.testing.assert_allclose(np.mean(first, axis=0), bounds.std(axis=1, ddof=1), rtol=0.08)


def test_one_label_alone_is_the_plain_bound() -> None:
    found = draws(*posterior(0.3, 1.2), 8)
    alone = LabelDraws(np.zeros(1), *(v[:, :1] for v in (found.reconstruction, found.log_prior, found.log_q)))
    reconstruction, terms = alone.marginal()
    np.testing.assert_allclose(reconstruction - terms.kl, alone.log_weights[:, 0], rtol=0, atol=1e-12)


def test_labels_that_say_the_same_make_no_difference() -> None:
    found = draws(*posterior(0.3, 1.2), 8)
    same = replace(
        found,
        **{n: np.repeat(getattr(found, n)[:, :1], 3, axis=1) for n in ("reconstruction", "log_prior", "log_q")},
    )
    np.testing.assert_allclose(elbo(*same.marginal()).elbo, same.log_weights[:, 0].mean(1), rtol=0, atol=1e-12)


def test_a_label_under_which_the_row_is_impossible_takes_no_part() -> None:
    found = draws(*posterior(0.3, 1.2), 8)
    impossible = replace(found, reconstruction=found.reconstruction.copy())
    impossible.reconstruction[0, 1] = -np.inf
    impossible.reconstruction[1, 2, 3] = -np.inf  # one draw of it is enough
    bound = elbo(*impossible.marginal())
    log_weights = impossible.log_weights.mean(2)
    expected = np.logaddexp.reduce(np.log(PRIOR) + log_weights, axis=1)
    np.testing.assert_allclose(bound.elbo, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(bound.elbo, bound.log_joint + bound.entropy, rtol=0, atol=1e-12)
    assert impossible.posterior()[0, 1] == 0
    assert np.isfinite(importance_weighted(impossible.marginal_log_weights()).iwae).all()
