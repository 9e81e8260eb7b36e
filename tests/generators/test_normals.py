"""Gaussian posteriors and the standard normal prior: closed forms against definitions, Monte Carlo and each other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from elbod.generators.noise import Keys, Stream, normals
from elbod.generators.posteriors import DiagonalNormal, FullNormal, Posterior
from elbod.generators.priors import StandardNormal

DIMENSIONS = 4

kinds = pytest.mark.parametrize("kind", ["normal", "multivariate_normal"])


def _noise(rows: int, dimensions: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(normals(Keys.of(seed, np.arange(rows)), Stream.PILOT, dimensions))


def _posterior(kind: str, rows: int = 3, dimensions: int = DIMENSIONS, spread: float = 0.5, seed: int = 0) -> Posterior:
    noise = _noise(rows + dimensions, 2 * dimensions, seed)
    mean = noise[:rows, :dimensions]
    if kind == "normal":
        return DiagonalNormal(mean, (spread * noise[:rows, dimensions:]).exp())
    scale_tril = noise[rows:, :dimensions].tril(-1) + (spread * noise[rows:, dimensions]).exp().diag()
    return FullNormal(mean, scale_tril)


def _repeat(q: Posterior, row: int, n: int) -> Posterior:
    """n copies of one row."""
    mean = q.parameters["mean"][row].expand(n, -1)
    if isinstance(q, FullNormal):
        return FullNormal(mean, q.scale_tril)
    return DiagonalNormal(mean, q.parameters["stddev"][row].expand(n, -1))


def _factor(q: Posterior, row: int) -> Tensor:
    """(d, d), column i is what one unit of noise in dimension i does to a draw."""
    d = q.parameters["mean"].shape[1]
    columns = torch.stack([q.draw(unit.expand(len(q.parameters["mean"]), d))[row] for unit in torch.eye(d).double()])
    return (columns - q.parameters["mean"][row]).mT


def _covariance(q: Posterior, row: int) -> Tensor:
    return _factor(q, row) @ _factor(q, row).mT


def _reference(q: Posterior, row: int) -> MultivariateNormal:
    return MultivariateNormal(q.parameters["mean"][row], covariance_matrix=_covariance(q, row))


@kinds
def test_a_posterior_draws_from_the_density_that_it_reports(kind: str) -> None:
    """log_prob is the multivariate normal's whose covariance the draws have."""
    q = _posterior(kind)
    for row in range(3):
        z = _noise(50, DIMENSIONS, seed=9)
        torch.testing.assert_close(
            _repeat(q, row, 50).log_prob(z), _reference(q, row).log_prob(z), rtol=1e-11, atol=1e-11
        )


@kinds
def test_reported_parameters_are_the_marginal_moments(kind: str) -> None:
    """`stddev` is the square root of the covariance's diagonal, row by row, (n, d) like the mean."""
    q = _posterior(kind)
    assert q.parameters["stddev"].shape == q.parameters["mean"].shape
    for row in range(3):
        torch.testing.assert_close(q.parameters["stddev"][row], _covariance(q, row).diagonal().sqrt())


@kinds
def test_draws_have_the_mean_and_the_covariance(kind: str) -> None:
    """The empirical moments of 200,000 draws, within five standard errors."""
    n = 200_000
    q = _posterior(kind)
    z = _repeat(q, 1, n).draw(_noise(n, DIMENSIONS, seed=4))
    covariance = _covariance(q, 1)
    variance = covariance.diagonal()
    assert ((z.mean(0) - q.parameters["mean"][1]).abs() < 5 * (variance / n).sqrt()).all()
    # Var of a product of centred normals: C_ii C_jj + C_ij^2.
    error = ((variance[:, None] * variance + covariance**2) / n).sqrt()
    assert ((z.mT.cov() - covariance).abs() < 5 * error).all()


@kinds
@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_temperature_scales_the_deviation_from_the_mean(kind: str, temperature: float) -> None:
    """z = mean + T scale eps, for one T and for one a row; T = 0 is the mean itself."""
    q = _posterior(kind)
    noise = _noise(3, DIMENSIONS, seed=2)
    expected = q.parameters["mean"] + temperature * (q.draw(noise) - q.parameters["mean"])
    torch.testing.assert_close(q.draw(noise, temperature), expected)
    torch.testing.assert_close(q.draw(noise, torch.full((3, 1), temperature).double()), expected)
    assert torch.equal(q.draw(noise, 0.0), q.parameters["mean"])
    torch.testing.assert_close(StandardNormal(DIMENSIONS).draw(noise, temperature), temperature * noise)


@kinds
def test_closed_forms_are_the_means_of_their_samples(kind: str) -> None:
    """Entropy, E_q[log p(z)], the second moment and KL(q || p), each within four standard errors of 100,000 draws."""
    n = 100_000
    prior, q = StandardNormal(DIMENSIONS), _posterior(kind)
    for row in range(3):
        rows = _repeat(q, row, n)
        z = rows.draw(_noise(n, DIMENSIONS, seed=row))
        log_q, log_p = rows.log_prob(z), prior.log_prob(z)
        for closed, sampled in (
            (q.entropy(), -log_q),
            (prior.expected_log_prob(q), log_p),
            (q.second_moment(), (z**2).sum(-1)),
            (prior.kl(q), log_q - log_p),
        ):
            assert closed.shape == (3,)
            assert abs(float(closed[row] - sampled.mean())) < 4 * float(sampled.std()) / math.sqrt(n)


@kinds
@given(dimensions=st.integers(1, 20), spread=st.floats(0, 3), seed=st.integers(0, 2**63 - 1))
def test_the_two_forms_of_the_kl_are_equal(kind: str, dimensions: int, spread: float, seed: int) -> None:
    """KL(q || p) = -(E_q[log p(z)] + H[q]) = (tr S + m'm - d - log|S|)/2 to 1e-9 of its largest part."""
    prior, q = StandardNormal(dimensions), _posterior(kind, 3, dimensions, spread, seed)
    c, h, kl = prior.expected_log_prob(q), q.entropy(), prior.kl(q)
    scale = torch.stack([torch.ones_like(c), c.abs(), h.abs()]).amax(0)
    assert ((kl + c + h).abs() <= 1e-9 * scale).all()
    assert (kl >= 0).all()
    for row in range(3):
        factor, mean = _factor(q, row).numpy(), q.parameters["mean"][row].numpy()
        log_det = 2 * np.linalg.slogdet(factor).logabsdet
        expected = 0.5 * (np.square(factor).sum() + mean @ mean - dimensions - log_det)
        assert float(kl[row]) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_the_kl_separates_by_dimension_for_a_diagonal_posterior_only() -> None:
    """kl_per_dimension sums to kl; a full covariance has no such parts."""
    prior, q = StandardNormal(DIMENSIONS), _posterior("normal")
    parts = prior.kl_per_dimension(q)
    assert parts is not None
    torch.testing.assert_close(parts.sum(-1), prior.kl(q))
    assert (parts >= 0).all()
    assert prior.kl_per_dimension(_posterior("multivariate_normal")) is None


def test_a_diagonal_factor_makes_the_two_posteriors_equal() -> None:
    """FullNormal with a diagonal factor is DiagonalNormal: densities, entropy, KL and draws."""
    mean, stddev = _noise(3, DIMENSIONS), torch.tensor([0.3, 1, 2, 0.01], dtype=torch.float64)
    full, diagonal = FullNormal(mean, stddev.diag()), DiagonalNormal(mean, stddev.expand(3, -1))
    noise, prior = _noise(3, DIMENSIONS, seed=1), StandardNormal(DIMENSIONS)
    torch.testing.assert_close(full.draw(noise), diagonal.draw(noise))
    torch.testing.assert_close(full.log_prob(noise), diagonal.log_prob(noise))
    torch.testing.assert_close(full.entropy(), diagonal.entropy())
    torch.testing.assert_close(prior.kl(full), prior.kl(diagonal))


def test_the_prior_is_the_standard_multivariate_normal() -> None:
    """log N(z; 0, I) with every constant."""
    z = _noise(20, 7)
    reference = MultivariateNormal(torch.zeros(7).double(), torch.eye(7).double())
    torch.testing.assert_close(StandardNormal(7).log_prob(z), reference.log_prob(z), rtol=1e-13, atol=1e-13)


@kinds
def test_a_narrow_posterior_has_a_negative_entropy(kind: str) -> None:
    """A differential entropy is not clipped: scaling every deviation by e^-5 subtracts 5 d nats."""
    q = _posterior(kind)
    mean = q.parameters["mean"]
    narrow = (
        FullNormal(mean, q.scale_tril * math.exp(-5))
        if isinstance(q, FullNormal)
        else DiagonalNormal(mean, q.parameters["stddev"] * math.exp(-5))
    )
    torch.testing.assert_close(narrow.entropy(), q.entropy() - 5 * DIMENSIONS)
    assert (narrow.entropy() < 0).all()


@kinds
def test_double_widens_the_parameters_and_nothing_else(kind: str) -> None:
    """Densities of float32 parameters are float64, and their values those of the exact same numbers."""
    q = _posterior(kind)
    mean, stddev = q.parameters["mean"].float(), q.parameters["stddev"].float()
    single = FullNormal(mean, q.scale_tril.float()) if isinstance(q, FullNormal) else DiagonalNormal(mean, stddev)
    double = single.double()
    z = _noise(3, DIMENSIONS, seed=5)
    assert torch.equal(double.parameters["mean"], mean.double())
    for value in (double.log_prob(z), double.entropy(), double.second_moment(), StandardNormal(DIMENSIONS).kl(double)):
        assert value.dtype == torch.float64
    torch.testing.assert_close(double.log_prob(z), q.log_prob(z), rtol=1e-4, atol=1e-4)
