"""Oracles on what is drawn: sampled levels, the training objective, and samples of small models of bits."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from elbod.generators import strata
from elbod.generators.base import Walk
from elbod.generators.bounds import elbo, importance_weighted
from elbod.generators.diffusion import Diffusion
from elbod.generators.evaluation import draw_terms
from elbod.generators.noise import Keys, Stream, blocks_of, normals, uniforms
from elbod.generators.terms import Conditional
from tests.oracles.chains import chain_model, constant, expected_bound, hermite, level_noise
from tests.oracles.paths import PairNoise, factors, multiplicities, prior_walk, sampled_level_terms


def _bits(dims: int, levels: int, gamma: tuple[float, float] = (-6.0, 6.0)) -> Diffusion:
    """Independent bits of unequal frequencies."""
    logits = torch.linspace(-2, 1, dims)[:, None]
    return chain_model(constant(logits), dims, levels, gamma, "bernoulli", levels=2)


def _pair_noise(seed: int, first: int, dims: int) -> PairNoise:
    """The noise of examples first + row by the layout of the contract."""

    def noise(rows: strata.Counts, levels: strata.Counts) -> Tensor:
        blocks = (levels * blocks_of(dims)).astype(np.uint64)
        return torch.from_numpy(normals(Keys.of(seed, first + rows), Stream.POSTERIOR, dims, blocks))

    return noise


def _draws(model: Diffusion, x: Tensor, count: int, strata_: int, seed: int) -> tuple[Tensor, Conditional[Tensor]]:
    """`count` draws of each row, all with their own u."""
    rows = x.repeat_interleave(count, 0)
    u = uniforms(Keys.of(seed, np.arange(len(rows))), Stream.LEVELS, 1)[:, 0]
    counts = multiplicities(u, model.level_weights.numpy(), strata_)
    return sampled_level_terms(model, model.encode(rows), rows, counts, _pair_noise(seed, 0, model.latent_dim))


@pytest.mark.parametrize("count", [1, 3, 8, 20])
@pytest.mark.parametrize("skew", [0.0, 3.0])
def test_sampled_levels_are_unbiased_by_enumeration(count: int, skew: float) -> None:
    """Over a fine grid of u the mean of sum n_i/(B w_i) KL_i is sum KL_i, whatever the weights; B n_i are visited."""
    kl = np.exp(np.sin(np.arange(16.0)))
    weights = strata.level_weights(np.exp(-skew * np.arange(16) / 16))
    u = (np.arange(200_000) + 0.5) / 200_000
    counts = multiplicities(u, weights, count)
    assert (counts.sum(1) == count).all()
    assert (counts >= np.floor(count * weights)).all()
    assert (counts <= np.ceil(count * weights)).all()
    found = (factors(counts, weights) * kl).sum(1)
    assert found.mean() == pytest.approx(kl.sum(), rel=1e-4)


@given(
    st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), min_size=1, max_size=20),
    st.lists(st.floats(0, 100), min_size=1, max_size=40),
    st.integers(1, 50),
)
def test_a_rows_levels_are_those_that_its_own_u_searches_for(us: list[float], profile: list[float], count: int) -> None:
    """i_b = F^-1((u + b)/B) by searching the cumulative weights; no row knows another's u."""
    weights = strata.level_weights(np.array(profile))
    counts = multiplicities(np.array(us), weights, count)
    cumulative = np.cumsum(weights) / weights.sum()
    for row, u in enumerate(us):
        assert np.array_equal(multiplicities(np.array([u]), weights, count)[0], counts[row])
        places = (u + np.arange(count)) / count
        # Where a place falls on a bound, rounding decides.
        if np.abs(cumulative[:, None] - places).min() > 1e-9:
            searched = np.bincount(np.searchsorted(cumulative, places, side="right"), minlength=len(weights))
            assert np.array_equal(searched, counts[row])


def test_every_level_once_is_the_sum_over_levels() -> None:
    """B = T and equal weights visit each level once."""
    counts = multiplicities(np.array([0.01, 0.99]), np.full(8, 1 / 8), 8)
    assert (counts == 1).all()
    assert np.allclose(factors(counts, np.full(8, 1 / 8)), 1)


def test_company_changes_no_byte_of_sampled_levels() -> None:
    """A row's terms depend on its own u and noise alone."""
    model, x = _bits(3, 12), torch.tensor([[0.0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]]).double()
    u = np.array([0.1, 0.7, 0.4, 0.95])
    counts = multiplicities(u, model.level_weights.numpy(), 4)
    whole = sampled_level_terms(model, model.encode(x), x, counts, _pair_noise(5, 0, 3))
    for row in range(4):
        one = slice(row, row + 1)
        alone = sampled_level_terms(model, model.encode(x[one]), x[one], counts[one], _pair_noise(5, row, 3))
        assert torch.equal(alone[0], whole[0][one])
        for name in ("kl", "log_prior", "entropy"):
            assert torch.equal(getattr(alone[1], name), getattr(whole[1], name)[one])


@pytest.mark.parametrize("count", [1, 4, 16])
def test_sampled_levels_estimate_the_bound(count: int) -> None:
    """mean(r - k) is L_T for every row by itself, with the weights of a measured profile."""
    model, x = _bits(4, 16), torch.tensor([[0.0, 1, 0, 1], [1, 1, 1, 1]]).double()
    expected, kl = expected_bound(model, x, *hermite(4, 80))
    model.keep_profile(torch.zeros(2), kl)
    draws = 6000
    r, terms = _draws(model, x, draws, count, seed=count)
    found = (r - terms.kl).reshape(2, draws)
    assert ((found.mean(1) - expected).abs() < 4 * found.std(1) / math.sqrt(draws)).all()
    assert float((terms.kl + terms.log_prior + terms.entropy).abs().max()) < 1e-9


@pytest.mark.parametrize(("count", "draws"), [(4, 16), (8, 16)])
def test_intervals_of_sampled_levels_cover(count: int, draws: int) -> None:
    """95 % intervals of S draws cover L_T 95 +- 2 % of the time: a draw with all its levels is one block."""
    model, x = _bits(64, 32, (-2.0, 5.0)), (torch.arange(64) % 3 == 0)[None].double()
    expected, kl = expected_bound(model, x, *hermite(64, 80))
    model.keep_profile(torch.zeros(1), kl)
    repeats = 1500
    r, terms = _draws(model, x, repeats * draws, count, seed=draws)
    known = Conditional(
        *(getattr(terms, name).numpy().reshape(repeats, draws) for name in ("kl", "log_prior", "entropy"))
    )
    found = elbo(r.numpy().reshape(repeats, draws), known)
    inside = np.abs(found.elbo - float(expected)) < stats.t.ppf(0.975, draws - 1) * found.standard_error
    assert 0.93 < inside.mean() < 0.97


def _noises(model: Diffusion, batch: int, batches: int) -> Tensor:
    """Noise (batch, dimensions) of each of many batches."""
    keys = Keys.of(1, np.arange(batch * batches))
    noise = torch.from_numpy(normals(keys, Stream.PRIOR, model.objective_noise_dimensions))
    return noise.unflatten(0, (batches, batch))


def _objective(model: Diffusion, x: Tensor, batch: int, batches: int, beta: float = 1.0) -> Tensor:
    """Objectives (batches, batch) of one row x, with noise of their own."""
    rows = x.expand(batch, -1)
    return torch.stack([model.objective(rows, noise, beta) for noise in _noises(model, batch, batches)])


def _follow(model: Diffusion, x: Tensor, batch: int, batches: int) -> None:
    """What training steps do to the profile."""
    for noise in _noises(model, batch, batches):
        _, statistics = model.objective_of_part(x.expand(batch, -1), model.stratified(noise), 1.0)
        model.update_buffers(statistics)


@pytest.mark.parametrize("power", [0.0, 1.0, -0.5])
def test_the_objective_is_the_bound(power: float) -> None:
    """Its mean is L_T: of a batch, and of each place in one, whatever the levels' weights."""
    model, x = _bits(4, 10, (-4.0, 4.0)), torch.tensor([[0.0, 1, 0, 1]]).double()
    expected, kl = expected_bound(model, x, *hermite(4, 60))
    # Weights that fit the terms, and weights that do not.
    model.keep_profile(torch.tensor([1.0]), (kl + 0.05) ** power)
    found = _objective(model, x, 16, 1500)
    means = found.mean(1)
    assert abs(float(means.mean() - expected)) < 4 * float(means.std()) / math.sqrt(len(means))
    each = (found.mean(0) - expected).abs() / (found.std(0) / math.sqrt(len(found)))
    assert float(each.max()) < 4.5
    halved = _objective(model, x, 16, 1500, beta=0.5).mean(1)
    r = float(expected + kl.sum() + model.first_kl(model.encode(x)))
    value = r - 0.5 * (r - float(expected))
    assert abs(float(halved.mean()) - value) < 4 * float(halved.std()) / math.sqrt(len(halved))


def test_the_profile_of_training_follows_the_terms() -> None:
    """Root mean squares of r and of KL_i; nothing moves by the objective alone, nor by statistics of zeros."""
    model, x = _bits(4, 6, (-1.0, 4.0)), torch.tensor([[0.0, 1, 0, 1]]).double()
    _follow(model, x, 14, 3)
    before = model.profile.clone()
    _objective(model.train(), x, 14, 3)
    assert torch.equal(model.profile, before)
    model.update_buffers([torch.zeros_like(before), torch.zeros_like(before)])
    assert torch.equal(model.profile, before)
    _follow(model, x, 350, 150)
    q = model.encode(x.expand(20_000, -1))
    noise = level_noise(2, 20_000, 4)
    for level in range(1, 7):
        kl = model.level_terms(model.visit(q, torch.full((20_000,), level), noise(level)), q).kl
        assert float(model.profile[level]) == pytest.approx(float((kl**2).mean().sqrt()), rel=0.3)


def test_parts_of_a_batch_have_the_levels_and_add_up_to_the_statistics_of_the_whole() -> None:
    """However a batch is divided, its levels are placed over the whole, and the profile follows all of its rows."""
    model, x = _bits(4, 6, (-1.0, 4.0)), (torch.arange(52).reshape(13, 4) % 3 == 0).double()
    noise = model.stratified(_noises(model, 13, 1)[0])
    whole, expected = model.objective_of_part(x, noise, 0.7)
    parts = [model.objective_of_part(x[part], noise[part], 0.7) for part in (slice(0, 5), slice(5, 13))]
    assert torch.equal(torch.cat([values for values, _ in parts]), whole)
    assert float(expected[0].max() - expected[0].min()) <= 1
    for one, other, both in zip(parts[0][1], parts[1][1], expected, strict=True):
        torch.testing.assert_close(one + other, both, rtol=1e-12, atol=0)


def _says(z: Tensor, gamma: Tensor) -> Tensor:
    """Beliefs that depend on the other element: the two bits are tied."""
    return (1.2 * z.flip(1) + 0.5 * torch.tanh(gamma) - 0.2)[:, :, None]


def _pair(variance: str = "belief") -> Diffusion:
    return chain_model(_says, 2, 2, (-1.0, 3.0), "bernoulli", variance, levels=2)


def _evidence(model: Diffusion) -> Tensor:
    """p_T(x) of x = 00, 01, 10, 11 by the trapezoidal rule, which is exact for normals on a fine grid."""
    axis = torch.linspace(-6.5, 6.5, 66, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    cell = float(axis[1] - axis[0]) ** 2
    density = torch.exp(-0.5 * (grid**2).sum(1)) / (2 * math.pi)
    for level in (2, 1):
        places = torch.full((len(grid),), level)
        m, v = model.denoise(grid, places)
        step = model.chain.step(places, places - 1)
        mean, width = step.mean(grid, m), step.variance + step.pull**2 * v
        # p(z_b|z_l) separates: a factor an element, (from, to).
        factors = [
            torch.exp(-0.5 * (axis - mean[:, j : j + 1]) ** 2 / width[:, j : j + 1])
            / torch.sqrt(2 * math.pi * width[:, j : j + 1])
            for j in (0, 1)
        ]
        density = (((density * cell)[:, None] * factors[0]).mT @ factors[1]).flatten()
    post = model.decode(grid).log_levels().exp()
    every = [post[:, 0, a] * post[:, 1, b] for a, b in itertools.product((0, 1), repeat=2)]
    return torch.stack([(density * cell) @ p for p in every])


@pytest.mark.parametrize("variance", ["belief", "fixed"])
def test_weights_have_the_mean_p_of_x(variance: str) -> None:
    """By quadrature sum over x of p_T(x) = 1, and E[exp(iwae_K)] = p_T(x) for every x and K = 1, 8."""
    model = _pair(variance)
    evidence = _evidence(model)
    assert float(evidence.sum()) == pytest.approx(1, abs=1e-8)
    draws = 16_000
    for x, p in zip(itertools.product((0.0, 1.0), repeat=2), evidence.tolist(), strict=True):
        rows = torch.tensor([x]).double().expand(draws, 2)
        drawn = draw_terms(model, model.encode(rows), rows, level_noise(4, draws, 2))
        log_w = (drawn.reconstruction - drawn.path.sampled.kl).numpy()
        for K in (1, 8):
            weighted = np.exp(importance_weighted(log_w.reshape(-1, K)).iwae)
            assert abs(weighted.mean() - p) < 4 * weighted.std() / math.sqrt(len(weighted))
        assert log_w.mean() < math.log(p) + 4 * log_w.std() / math.sqrt(draws)


@pytest.mark.parametrize("variance", ["belief", "fixed"])
def test_samples_are_from_the_distribution_that_is_scored(variance: str) -> None:
    """Bits drawn from the model have the frequencies p_T(x): a chi-square test of 40,000 draws."""
    model, draws = _pair(variance), 40_000
    walk = prior_walk(model, level_noise(6, draws, 2, Stream.TRANSITION))
    u = torch.from_numpy(uniforms(Keys.of(6, np.arange(draws)), Stream.OBSERVATION, 2))
    bits = model.observe(walk).icdf(u).long()
    found = torch.bincount(2 * bits[:, 0] + bits[:, 1], minlength=4).numpy()
    assert stats.chisquare(found, draws * _evidence(model).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("variance", ["belief", "fixed"])
@pytest.mark.parametrize("below", [0, 1])
def test_a_step_of_the_sampler_has_the_density_that_is_scored(variance: str, below: int) -> None:
    """p(z_b|z_l) at the sampler's own draw is the density of its noise: no clipping in only one of the two."""
    model = _pair(variance)
    z = torch.tensor([[0.4, -1.0], [3.0, 2.0], [-4.0, 4.0]])
    level = torch.full((3,), 2)
    walk, noise = Walk(z, level, torch.full((3,), below)), torch.tensor([[0.5, -1.5], [2.0, 0.1], [-0.3, 1.0]]).double()
    centre, _ = model.advance(walk, None, torch.zeros_like(noise))
    unit, _ = model.advance(walk, None, torch.ones_like(noise))
    drawn, _ = model.advance(walk, None, noise)
    # The noise with which q draws the same z.
    q = model.encode(torch.tensor([[0.0, 1], [1, 1], [0, 0]]))
    start, end = (model.descend(walk, q, at).z.double() for at in (torch.zeros_like(noise), torch.ones_like(noise)))
    same = (drawn.z.double() - start) / (end - start)
    after, path = model.advance_by_element(walk, q, same)
    torch.testing.assert_close(after.z, drawn.z)
    width = unit.z.double() - centre.z.double()
    expected = -0.5 * noise**2 - width.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(path.sampled.log_prior, expected, rtol=1e-5, atol=1e-5)


def test_levels_sum_to_one_at_every_level_of_noise() -> None:
    """Of what is believed of x at levels 0 ... T, edges and far latents included."""
    z = torch.tensor([[0.0, 1.0], [-30.0, 30.0], [1e-6, 4.0]])
    for likelihood, levels, parameters in (
        ("bernoulli", 2, 1),
        ("categorical", 17, 17),
        ("discretized_logistic", 256, 2),
        ("discretized_logistic_mixture", 256, 15),
    ):
        outputs = torch.linspace(-9, 9, 2 * parameters).reshape(2, parameters)
        model = chain_model(constant(outputs), 2, 6, (-8.0, 8.0), likelihood, levels=levels)
        for level in range(7):
            post = model.observe(Walk(z, torch.full((3,), level)))
            each = torch.stack([post.log_prob(torch.full_like(z, k)).exp() for k in range(levels)])
            assert float((each.sum(0) - 1).abs().max()) < 1e-12
            mean = (each * torch.arange(levels)[:, None, None]).sum(0)
            torch.testing.assert_close(post.mean(), mean, rtol=1e-9, atol=1e-9)
