"""Oracles on chains of linear-Gaussian models and of points, whose evidence is known without any bound.

Beliefs are exact, so the only gaps are those of the chain itself: none where elements are independent normals, a known
rate in the number of levels elsewhere.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from elbod.generators.base import Walk
from elbod.generators.bounds import bound, importance_weighted, log_weights
from elbod.generators.diffusion import Diffusion
from elbod.generators.evaluation import draw_terms, kl_per_level, row_terms
from elbod.generators.posteriors import DiagonalNormal
from elbod.generators.priors import StandardNormal
from elbod.generators.terms import Terms, mapped
from tests.oracles.chains import (
    Says,
    at_noise,
    chain_model,
    constant,
    correlated,
    expected_bound,
    fixed,
    hermite,
    level_noise,
    quadratic,
)
from tests.oracles.paths import bound_map

COVARIANCE = torch.tensor([[1.0, 0.7, 0.2], [0.7, 1.3, -0.3], [0.2, -0.3, 0.8]], dtype=torch.float64)
# Coarser than any in use, and as fine.
RANGES = [(-3.0, 3.0), (-13.3, 5.0)]


def _normal(dims: int, stddev: float = 1.0) -> Says:
    """The belief N(0, stddev^2) of every element."""
    return constant(torch.tensor([[0.0, math.log(stddev)]]).expand(dims, 2))


def _log_weights(model: Diffusion, x: Tensor, draws: int, seed: int = 0) -> Tensor:
    """log w (n, draws)."""
    rows = x.repeat_interleave(draws, 0)
    drawn = draw_terms(model, model.encode(rows), rows, level_noise(seed, len(rows), model.latent_dim))
    return (drawn.reconstruction - drawn.path.sampled.kl).reshape(len(x), draws)


@pytest.mark.parametrize("gamma", RANGES)
@pytest.mark.parametrize("levels", [1, 3, 16, 64])
def test_every_path_of_independent_normals_gives_the_evidence(levels: int, gamma: tuple[float, float]) -> None:
    """Data N(0, I) with the belief N(0, 1): log w = log p(x) for every draw and every T, to rounding."""
    model = chain_model(_normal(3), 3, levels, gamma)
    x = torch.tensor([[0.0, 0.3, -2.0], [3.0, -0.1, 1.0]], dtype=torch.float64)
    expected = Normal(0.0, 1.0).log_prob(x).sum(-1)
    found = _log_weights(model, x, 50)
    assert float((found - expected[:, None]).abs().max()) < 1e-11
    q = model.encode(x)
    elements = bound_map(model, q, x, level_noise(3, 2, 3))
    assert float((elements - Normal(0.0, 1.0).log_prob(x)).abs().max()) < 1e-11


def test_the_reported_bound_of_independent_normals_is_the_evidence() -> None:
    """elbo, iwae and log_joint + entropy of the served reductions: no beta, no missing term, no error."""
    model = chain_model(_normal(3), 3, 5, (-3, 3))
    x = torch.tensor([[0.0, 0.3, -2.0], [3.0, -0.1, 1.0]], dtype=torch.float64)
    rows = x.repeat_interleave(30, 0)
    drawn = draw_terms(model, model.encode(rows), rows, level_noise(0, 60, 3))
    terms = Terms(
        mapped(_array, row_terms(model, x, model.encode(x))), mapped(lambda v: _array(v).reshape(2, 30), drawn)
    )
    found, weighted = bound(terms, 30), importance_weighted(log_weights(terms, 30))
    expected = Normal(0.0, 1.0).log_prob(x).sum(-1).numpy()
    for name in ("elbo", "iwae"):
        assert np.abs(vars(found).get(name, vars(weighted).get(name)) - expected).max() < 1e-11
    assert np.abs(found.log_joint + found.entropy - expected).max() < 1e-9
    # H by the variances of the encoder: s_T^2 of z_T, and of each z_{i-1} given z_i what conditioning leaves.
    a2, s2 = torch.sigmoid(-model.gamma), torch.sigmoid(model.gamma)
    ratio = a2[1:] / a2[:-1]
    left = s2[:-1] - ratio * s2[:-1] ** 2 / s2[1:]
    logs = s2[-1].log() + left.log().sum()
    assert np.abs(found.entropy - float(1.5 * (6 * math.log(2 * math.pi * math.e) + logs))).max() < 1e-9


def _array(values: Tensor) -> np.ndarray:
    return values.numpy()


def test_a_fixed_variance_loses_what_is_known() -> None:
    """1-D N(0, 0.49), v = 0, x = 0: 0.514 nats at T = 100 and 0.0487 at 1000, predicted by the Riemann sum's rate."""
    x, (points, weights) = torch.zeros(1, 1, dtype=torch.float64), hermite(1, 8)
    log_evidence = float(Normal(0.0, 0.7).log_prob(torch.tensor(0.0)))
    lowest, highest = -13.3, 5.0
    for levels, expected in ((100, -0.514), (1000, -0.0487)):
        model = fixed(chain_model(_normal(1, 0.7), 1, levels, (lowest, highest)))
        found = float(expected_bound(model, x, points, weights)[0]) - log_evidence
        assert found == pytest.approx(expected, abs=6e-4 if levels == 100 else 6e-5)
    gamma = torch.linspace(lowest, highest, 100_001, dtype=torch.float64)
    # E[(eps - eps_hat)^2] at x = 0: eps_hat = eps (1 - SNR v).
    error = torch.sigmoid(torch.tensor(0.49).log() - gamma) ** 2
    inner = float(error[-1] - error[0] + torch.trapezoid(error, gamma))
    assert (highest - lowest) / 4000 * inner == pytest.approx(0.0484, abs=6e-5)
    exact = chain_model(_normal(1, 0.7), 1, 100, (lowest, highest))
    # With the variance of the belief only p(z_T) is not exact: N(0, 1) in place of N(0, 1 - 0.51 a_T^2).
    assert float(expected_bound(exact, x, points, weights)[0]) == pytest.approx(log_evidence, abs=1e-5)


def _gaussian_costs(levels: int, gamma: tuple[float, float], variance: str) -> tuple[float, float]:
    """E over data and noise of L_T, and of the sum of KL_i, by points that are exact for quadratic functions."""
    model = chain_model(correlated(COVARIANCE), 3, levels, gamma, variance=variance)
    points, _ = quadratic(6)
    x = points[:, :3] @ torch.linalg.cholesky(COVARIANCE).mT
    found, kl = at_noise(model, x, points[:, 3:])
    return float(found.mean()), float(kl.sum(1).mean())


def _integral(gamma: tuple[float, float], of: str) -> float:
    """int over gamma of SNR tr C, SNR^2 ||C||^2 or its off-diagonal part, C = Cov(f|z)."""
    grid = torch.linspace(*gamma, 4001, dtype=torch.float64)
    snr = torch.exp(-grid)[:, None, None]
    posterior = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + snr * torch.eye(3, dtype=torch.float64))
    diagonal = posterior.diagonal(dim1=1, dim2=2)
    value = {
        "trace": snr[:, 0, 0] * diagonal.sum(1),
        "all": snr[:, 0, 0] ** 2 * posterior.square().sum((1, 2)),
        "off": snr[:, 0, 0] ** 2 * (posterior.square().sum((1, 2)) - diagonal.square().sum(1)),
    }[of]
    return float(torch.trapezoid(value, grid))


@pytest.mark.parametrize("levels", [32, 64, 128])
def test_correlations_cost_what_the_rate_says(levels: int) -> None:
    """(Gamma/4T) int SNR^2 ||off-diagonal of Cov(f|z)||^2 with the belief's variance, within 3 %."""
    gamma = (-6.0, 6.0)
    cost = _gaussian_costs(levels, gamma, "belief")[1] - 0.5 * _integral(gamma, "trace")
    assert cost == pytest.approx(12 / (4 * levels) * _integral(gamma, "off"), rel=0.03)


def test_a_fixed_variance_costs_the_whole_covariance_at_slope_minus_one() -> None:
    """The same with all of Cov(f|z): the log-error against log T has slope -1."""
    gamma, levels = (-6.0, 6.0), (256, 1024, 4096)
    limit = 0.5 * _integral(gamma, "trace")
    costs = [_gaussian_costs(T, gamma, "fixed")[1] - limit for T in levels]
    for T, cost in zip(levels, costs, strict=True):
        assert cost == pytest.approx(12 / (4 * T) * _integral(gamma, "all"), rel=16 / T)
    slope = math.log(costs[2] / costs[0]) / math.log(levels[2] / levels[0])
    assert slope == pytest.approx(-1, abs=0.02)


def _chain_evidence(model: Diffusion, x: Tensor) -> Tensor:
    """log p_T(x) of a chain with linear m: cov <- M cov M' + V + F^2 v down the levels, and once more for x."""
    dims, units = model.latent_dim, torch.eye(model.latent_dim, dtype=torch.float64)
    covariance = units.clone()
    for level in range(model.levels, 0, -1):
        places = torch.full((dims,), level)
        m, v = model.denoise(units, places)  # m of unit vectors: the matrix, transposed
        step = model.chain.step(places[:1], places[:1] - 1)
        M = float(step.carry) * units + float(step.pull) * m.mT
        covariance = M @ covariance @ M.mT + (float(step.variance) * units + float(step.pull) ** 2 * v[0].diag())
    post = model.observe(Walk(units, torch.zeros(dims, dtype=torch.int64)))
    m, v = post.mean(), torch.exp(2 * post.log_scale[0])  # type: ignore[attr-defined]
    evidence: Tensor = MultivariateNormal(torch.zeros(dims).double(), m.mT @ covariance @ m + v.diag()).log_prob(x)
    return evidence


@pytest.mark.parametrize("variance", ["belief", "fixed"])
def test_bounds_are_below_the_evidence_of_the_chain_itself(variance: str) -> None:
    """L_T <= log p_T(x), the importance-weighted bound reaches it, and exp(log w) has the mean p_T(x)."""
    model = chain_model(correlated(COVARIANCE), 3, 6, (-2.0, 3.0), variance=variance)
    x = torch.tensor([[0.5, -0.3, 0.2], [2.0, 1.0, -1.0]], dtype=torch.float64)
    evidence = _chain_evidence(model, x)
    lower, _ = expected_bound(model, x, *quadratic(3))
    assert (lower < evidence).all()
    draws = 20_000
    log_w = _log_weights(model, x, draws)
    error = log_w.std(1) / math.sqrt(draws)
    assert ((log_w.mean(1) - lower).abs() < 4 * error).all()
    ratio = torch.exp(log_w - evidence[:, None])
    assert ((ratio.mean(1) - 1).abs() < 4 * ratio.std(1) / math.sqrt(draws)).all()
    for K in (1, 10, 100):
        weighted = importance_weighted(log_w.reshape(-1, K).numpy()).iwae.reshape(2, -1)
        spread = weighted.std(1) / math.sqrt(draws / K)
        assert (weighted.mean(1) < evidence.numpy() + 4 * spread).all()
        assert (weighted.mean(1) > lower.numpy() - 4 * spread).all()
    assert np.abs(weighted.mean(1) - evidence.numpy()).max() < 0.1


def _nonlinear(z: Tensor, gamma: Tensor) -> Tensor:
    """Logits that depend on the other element and on the level."""
    return (1.5 * torch.sin(2 * z.flip(1)) + 0.3 * gamma + 0.2)[:, :, None]


def test_the_forms_agree_and_estimate_one_bound() -> None:
    """k by signal-to-noise ratios, c and H by means and variances; the sampled terms have their means."""
    model = chain_model(_nonlinear, 2, 8, (-5, 4), "bernoulli", levels=2)
    draws = 4000
    x = torch.tensor([[0.0, 1.0]]).double().expand(draws, 2)
    path = (drawn := draw_terms(model, model.encode(x), x, level_noise(1, draws, 2))).path
    assert path.conditional is not None
    assert path.entropy is not None
    known, scale = path.conditional, path.entropy.abs().max()
    assert float((known.kl + known.log_prior + known.entropy).abs().max() / scale) < 1e-9
    assert float((path.entropy - model.entropy).abs().max()) < 1e-9
    r, log_w = drawn.reconstruction, drawn.reconstruction - path.sampled.kl
    difference = log_w - (r - known.kl)
    assert float(difference.mean().abs()) < 4 * float(difference.std()) / math.sqrt(draws)
    entropy = -path.sampled.log_q
    assert float((entropy.mean() - model.entropy).abs()) < 4 * float(entropy.std()) / math.sqrt(draws)
    # The path's own weight is the better estimate.
    assert float(log_w.std()) < 0.7 * float((r - known.kl).std())
    q = model.encode(x)
    _, levels = kl_per_level(model, q, x, level_noise(1, draws, 2))
    torch.testing.assert_close(levels.sum(1), known.kl, rtol=0, atol=1e-10)
    torch.testing.assert_close(levels[:, -1], model.first_kl(q), rtol=0, atol=1e-12)
    assert (levels >= 0).all()


def test_one_level_is_a_vae_of_two_levels_with_a_fixed_encoder() -> None:
    """T = 1 by torch.distributions alone: Normal, kl_divergence and the conditioning of a joint normal."""
    model = chain_model(correlated(COVARIANCE), 3, 1, (-2.0, 3.0))
    x = torch.tensor([[0.5, -0.3, 0.2]], dtype=torch.float64)
    (g0, g1), noise = model.gamma, level_noise(0, 1, 3)
    a0, a1, s0, s1 = (float(torch.sigmoid(g) ** 0.5) for g in (-g0, -g1, g0, g1))
    top = Normal(a1 * x, s1)
    z1 = (top.mean + s1 * noise(1)).float().double()
    # z_1 = (a1/a0) z_0 + sqrt(s1^2 - (a1 s0/a0)^2) eps given z_0: condition z_0 on z_1.
    gain = (a1 / a0) * s0**2 / s1**2
    middle = Normal(a0 * x + gain * (z1 - a1 * x), math.sqrt(s0**2 - gain**2 * s1**2))
    z0 = (middle.mean + middle.stddev * noise(0)).float().double()
    m, v = model.denoise(z1, torch.tensor([1]))
    pull = a0 - gain * a1
    below = Normal(gain * z1 + pull * m, torch.sqrt(middle.variance + pull**2 * v))
    post = model.observe(Walk(z0, torch.tensor([0])))
    r = Normal(post.mean(), torch.exp(post.log_scale)).log_prob(x).sum()  # type: ignore[attr-defined]
    drawn = draw_terms(model, model.encode(x), x, noise)
    path = drawn.path
    assert path.conditional is not None
    standard = Normal(0.0, 1.0)
    expected = {
        "r": (drawn.reconstruction, r),
        "log p": (path.sampled.log_prior, standard.log_prob(z1).sum() + below.log_prob(z0).sum()),
        "log q": (path.sampled.log_q, top.log_prob(z1).sum() + middle.log_prob(z0).sum()),
        "kl": (path.conditional.kl, kl_divergence(top, standard).sum() + kl_divergence(middle, below).sum()),
        "H": (path.conditional.entropy, top.entropy().sum() + middle.entropy().sum()),
    }
    for found, known in expected.values():
        assert float(found) == pytest.approx(float(known), abs=1e-10)


def test_without_its_steps_a_chain_is_a_vae_of_one_latent() -> None:
    """E log p(x|z_T) - KL(N(a f, s^2) || N(0, I)), the KL by the code of every other family."""
    model = chain_model(correlated(COVARIANCE), 3, 4, (-2.0, 3.0))
    x = torch.tensor([[0.5, -0.3, 0.2], [2.0, 1.0, -1.0]], dtype=torch.float64)
    q = model.encode(x)
    gamma = float(model.gamma[-1])
    mean, stddev = x / math.sqrt(1 + math.exp(gamma)), torch.full_like(x, (1 + math.exp(-gamma)) ** -0.5)
    closed = StandardNormal(3).closed_form(DiagonalNormal(mean, stddev))
    _, path = model.begin(q, level_noise(0, 2, 3)(4))
    assert closed is not None
    assert path is not None
    assert path.conditional is not None
    for name in ("kl", "log_prior", "entropy"):
        torch.testing.assert_close(getattr(path.conditional, name), getattr(closed, name), rtol=0, atol=1e-12)


def test_a_uniform_belief_gives_the_decoder_of_vdm() -> None:
    """p(x = k|z_0) ~ exp(-(z_0/a - f_k)^2 SNR/2), Kingma et al. (2021), section 3.3."""
    model = chain_model(constant(torch.zeros(2, 17)), 2, 3, (-4.0, 3.0), "categorical", levels=17)
    z = torch.tensor([[0.3, -0.7], [1.2, 0.0]], dtype=torch.float64)
    found = model.decode(z).log_levels()
    gamma = float(model.gamma[0])
    f = torch.linspace(-1, 1, 17, dtype=torch.float64)
    logits = -0.5 * math.exp(-gamma) * (z[..., None] * math.sqrt(1 + math.exp(gamma)) - f) ** 2
    torch.testing.assert_close(found, torch.log_softmax(logits, -1), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("variance", "expected"),
    [("belief", (-0.0899, -0.0312, -0.0101, -0.0030)), ("fixed", (-0.415, None, None, -0.0393))],
)
def test_the_bound_of_two_points_tends_to_their_entropy(variance: str, expected: tuple[float | None, ...]) -> None:
    """f = +-1 with equal chances: E L_T + log 2 at T = 16 ... 128, from below."""
    costs = []
    for levels, value in zip((16, 32, 64, 128), expected, strict=True):
        model = chain_model(constant(torch.zeros(1, 1)), 1, levels, (-6, 8), "bernoulli", variance, levels=2)
        found, _ = expected_bound(model, torch.tensor([[0.0], [1.0]]).double(), *hermite(1, 100))
        costs.append(float(found.mean()) + math.log(2))
        assert value is None or costs[-1] == pytest.approx(value, abs=6e-5 if abs(value) < 0.1 else 6e-4)
    rate = math.log(costs[-1] / costs[-2]) / math.log(2)
    assert (rate < -1.6) if variance == "belief" else (-1.3 < rate < -1)


def test_untrained_beliefs_tend_to_the_table_of_frequencies() -> None:
    """Initialized on rows, the model is that of independent elements with one count added to every level."""
    rows = torch.randint(0, 5, (40, 3), generator=torch.Generator().manual_seed(0)) // torch.tensor([1, 2, 5])
    costs = []
    for levels in (16, 64):
        model = chain_model(constant(torch.zeros(3, 2)), 3, levels, (-7, 7), "discretized_logistic", levels=5)
        model.initialize(rows)
        table = torch.stack([(rows == k).sum(0) + 1 for k in range(5)]).double() / 45
        x = torch.tensor([[0, 1, 0], [4, 2, 0]])
        expected = torch.log(table.gather(0, x)).sum(1)
        found, _ = expected_bound(model, x.double(), *hermite(3, 60))
        costs.append(float((found - expected).abs().max()))
    assert costs[0] < 0.3
    assert costs[1] < costs[0] / 8


@pytest.mark.parametrize("data", ["points", "normal"])
def test_refining_the_grid_improves_the_expected_bound(data: str) -> None:
    """E_data L_T rises over nested grids with both variances, and the belief's is never the worse one."""

    def total(levels: int, variance: str) -> float:
        if data == "normal":
            return _gaussian_costs(levels, (-5.0, 5.0), variance)[0]
        model = chain_model(constant(torch.zeros(1, 1)), 1, levels, (-6, 8), "bernoulli", variance, levels=2)
        found, _ = expected_bound(model, torch.tensor([[0.0], [1.0]]).double(), *hermite(1, 100))
        return float(found.mean())

    grids = (1, 2, 4, 8, 16, 32, 64)
    belief, plain = ([total(levels, variance) for levels in grids] for variance in ("belief", "fixed"))
    assert (np.diff(belief) > 0).all()
    assert (np.diff(plain) > 0).all()
    assert (np.array(belief) >= plain).all()
