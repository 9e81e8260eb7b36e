"""The diffusion family: schedules, beliefs, passes of rows at different levels, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from elbod.generators import belief, chain, checkpoint
from elbod.generators.base import Blueprint, Walk
from elbod.generators.chain import grid
from elbod.generators.checkpoint import InvalidCheckpoint
from elbod.generators.diffusion import Diffusion
from elbod.generators.evaluation import (
    LevelNoise,
    below_top,
    draw_terms,
    posterior_passes,
    to_level,
)
from elbod.generators.likelihoods import (
    LIKELIHOODS,
    GaussianObservation,
    make_likelihood,
)
from elbod.generators.noise import Keys, Stream, blocks_of, normals
from tests.oracles.paths import bound_map, prior_walk
from tests.support import DIFFUSION, build_generator

CONV = {"network": "conv", "channels": [4, 6], "patch": 2, "blocks": 1, "num_levels": 6}
IMAGES = replace(DIFFUSION, spec=CONV)
BITS = replace(DIFFUSION, likelihood="bernoulli", levels=2, event_shape=(3, 4), binarization="stochastic")
NUMBERS = replace(DIFFUSION, likelihood="gaussian", levels=None, event_shape=(5,))


def _model(blueprint: Blueprint = DIFFUSION, **spec: Any) -> Diffusion:
    found = build_generator(replace(blueprint, spec={**blueprint.spec, **spec}))
    assert isinstance(found, Diffusion)
    return found


def _rows(model: Diffusion, n: int) -> Tensor:
    u = torch.rand(n, *model.event_shape, generator=torch.Generator().manual_seed(3))
    return (u * (model.likelihood.levels or 2)).floor() if model.likelihood.measure == "pmf" else u


def _noise(rows: Any, dims: int, stream: Stream = Stream.POSTERIOR) -> LevelNoise:
    keys = Keys.of(7, rows)
    return lambda level: torch.from_numpy(normals(keys, stream, dims, level * blocks_of(dims)))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "learned"])
@pytest.mark.parametrize("levels", [1, 2, 32, 300])
def test_gamma_ascends_between_its_ends(schedule: str, levels: int) -> None:
    gamma = _model(num_levels=levels, schedule=schedule, gamma_min=-13.3, gamma_max=5.0).gamma
    assert gamma.dtype == torch.float64
    assert gamma.shape == (levels + 1,)
    assert (gamma.diff() > 0).all()
    assert gamma[[0, -1]].tolist() == pytest.approx([-13.3, 5.0], abs=1e-12)


def test_schedules_are_what_they_are_called() -> None:
    """Equal steps of gamma; of t with a = cos(pi t/2); in proportion to softplus of what is learned."""
    torch.testing.assert_close(chain.linear(-3, 5, 4), torch.tensor([-3, -1, 1, 3, 5.0]).double())
    gamma = chain.cosine(-8, 6, 20)
    t = 2 / math.pi * torch.arccos(torch.sigmoid(-gamma).sqrt())
    torch.testing.assert_close(t.diff(), t.diff()[:1].expand(20))
    increments = torch.tensor([0.0, 1.0, -2.0])
    steps = torch.log1p(torch.exp(increments.double()))
    torch.testing.assert_close(chain.learned(0, 7, increments).diff(), 7 * steps / steps.sum())


def test_a_learned_schedule_is_trained_on_the_bound_and_frozen_by_prepare() -> None:
    model = _model(schedule="learned").train().requires_grad_(True)
    x, dims = _rows(model, 40), model.objective_noise_dimensions
    noise = torch.from_numpy(normals(Keys.of(0, np.arange(40)), Stream.PRIOR, dims)).float()
    model.objective(x, noise, 1.0).mean().backward()
    assert model.increments is not None
    assert model.increments.grad is not None
    assert (model.increments.grad.abs() > 0).all()
    before = model.gamma.clone()
    with torch.no_grad():
        model.increments += torch.arange(4.0)
    model.eval()
    assert torch.equal(model.chain.gamma, before)
    model.prepare()
    assert float((model.chain.gamma - before).abs().max()) > 0.1
    assert (model.gamma.diff() > 0).all()


@given(st.integers(1, 300).flatmap(lambda levels: st.tuples(st.just(levels), st.integers(1, levels))))
def test_a_sub_grid_has_both_ends_and_distinct_levels(sizes: tuple[int, int]) -> None:
    """round(j T/T') for j = 0 ... T', halves up; T' = T is every level."""
    levels, steps = sizes
    found = grid(levels, steps)
    assert found == tuple(math.floor(Fraction(j * levels, steps) + Fraction(1, 2)) for j in range(steps + 1))
    assert (found[0], found[-1], len(found)) == (0, levels, steps + 1)
    assert (np.diff(found) > 0).all()
    assert below_top(levels, steps) == found[-2::-1]
    assert grid(levels, levels) == tuple(range(levels + 1))


@pytest.mark.parametrize("steps", [0, 5, -1])
def test_a_chain_has_no_more_steps_than_levels(steps: int) -> None:
    with pytest.raises(ValueError, match=f"a chain of 4 levels has 1 to 4 steps, not {steps}"):
        grid(4, steps)


@pytest.mark.parametrize("name", [name for name, kind in LIKELIHOODS.items() if kind.measure == "pmf"])
@pytest.mark.parametrize("levels", [2, 9, 256])
def test_log_levels_are_the_log_prob_of_each_level(name: str, levels: int) -> None:
    if name == "bernoulli" and levels != 2:
        return
    likelihood = make_likelihood(name, (2, 3), levels)
    shift, scale = likelihood.standardization(torch.zeros(1, 2, 3))
    outputs = 3 * torch.randn(4, 2, 3, likelihood.parameters, generator=torch.Generator().manual_seed(0))
    observation = likelihood.observe(outputs, shift, scale).double()
    found = observation.log_levels()
    assert found.shape == (4, 2, 3, levels)
    for k in range(levels):
        expected = observation.log_prob(torch.full((4, 2, 3), float(k)))
        torch.testing.assert_close(found[..., k], expected, rtol=1e-12, atol=1e-12)


def test_a_density_has_no_levels() -> None:
    zero = torch.zeros(1, 2)
    with pytest.raises(NotImplementedError, match="GaussianObservation is a density: it has no levels"):
        GaussianObservation(zero, zero).log_levels()


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "discretized_logistic", "discretized_logistic_mixture"])
@pytest.mark.parametrize("gamma", [-8.0, 0.0, 6.0])
def test_the_posterior_of_levels_is_bayes_rule(name: str, gamma: float) -> None:
    """post(k) ~ pi(k) N(z; a f_k, s^2), its mean and its variance, by the densities of torch.distributions."""
    levels = 2 if name == "bernoulli" else 9
    likelihood = make_likelihood(name, (3,), levels)
    shift, scale = (each.double() for each in likelihood.standardization(torch.zeros(1, 3)))
    outputs = torch.randn(5, 3, likelihood.parameters, generator=torch.Generator().manual_seed(1))
    pi = likelihood.observe(outputs, shift, scale).double()
    a, s = (torch.full((1, 1), 1 / math.sqrt(1 + math.exp(g))).double() for g in (gamma, -gamma))
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).double()
    f = (torch.arange(levels) - shift[:, None]) / scale[:, None]
    joint = pi.log_levels() + torch.distributions.Normal(a * f, s).log_prob(z[..., None])
    p = torch.softmax(joint, -1)
    post = belief.posterior(pi, z, a, s**2, (shift, scale))
    torch.testing.assert_close(post.log_levels().exp(), p, rtol=1e-8, atol=1e-12)
    m, v = belief.moments(post, shift, scale)
    torch.testing.assert_close(m, (p * f).sum(-1), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(v, (p * (f - (p * f).sum(-1, keepdim=True)) ** 2).sum(-1), rtol=1e-6, atol=1e-12)


def test_the_posterior_of_numbers_is_bayes_rule() -> None:
    """N(mu, r^2) times N(z; a f, s^2) in f, by quadrature, in data units with a shift and a scale."""
    shift, scale = torch.tensor([10.0]).double(), torch.tensor([4.0]).double()
    pi = GaussianObservation(torch.tensor([[12.0]]).double(), torch.tensor([[1.1]]).double())
    a, s = 0.8, 0.6
    x = torch.linspace(-60, 80, 200_001, dtype=torch.float64)[:, None]
    joint = (
        pi.log_prob(x) + torch.distributions.Normal(a * (x - shift) / scale, s).log_prob(0.3 * torch.ones_like(x))
    ).exp()
    total = torch.trapezoid(joint[:, 0], x[:, 0])
    mean = torch.trapezoid((x * joint)[:, 0], x[:, 0]) / total
    variance = torch.trapezoid(((x - mean) ** 2 * joint)[:, 0], x[:, 0]) / total
    ones = torch.ones(1, 1, dtype=torch.float64)
    post = belief.posterior(pi, 0.3 * ones, a * ones, s**2 * ones, (shift, scale))
    m, v = belief.moments(post, shift, scale)
    assert float(post.mean()) == pytest.approx(float(mean), rel=1e-9)
    assert float(shift + scale * m) == pytest.approx(float(mean), rel=1e-9)
    assert float(scale**2 * v) == pytest.approx(float(variance), rel=1e-9)
    torch.testing.assert_close(post.log_prob(x[90_000:91_000]), (joint / total).log()[90_000:91_000])


def test_a_variance_near_certainty_does_not_cancel() -> None:
    """v of a bit at logit 60 is 4 exp(-60), not 1 - tanh^2 = 0; of levels likewise."""
    one = torch.full((1, 1), 60.0).double()
    half = torch.full((1,), 0.5).double()
    zero = torch.zeros(1, 1).double()
    for pi in (make_likelihood(name, (1,), 2) for name in ("bernoulli", "categorical")):
        outputs = one[..., None] if pi.parameters == 1 else torch.stack([zero, one], -1)
        post = belief.posterior(pi.observe(outputs, half, half), zero, zero, one, (half, half))
        assert float(belief.moments(post, half, half)[1]) == pytest.approx(4 * math.exp(-60), rel=1e-6, abs=0)


def test_bytes_are_standardized_without_wrapping() -> None:
    """uint8 rows minus a shift would wrap around."""
    model = _model()
    x = _rows(model, 4)
    assert torch.equal(model.encode(x.to(torch.uint8)).f, model.encode(x).f)
    assert model.encode(x).f.dtype == torch.float64


@pytest.mark.parametrize("blueprint", [DIFFUSION, IMAGES, BITS, NUMBERS])
def test_rows_of_a_tile_at_different_levels_do_not_see_each_other(blueprint: Blueprint) -> None:
    """A row's bytes are the same whatever level the others stand at, and wherever they go."""
    model = _model(blueprint)
    n, x = 12, _rows(_model(blueprint), 12)
    q, top = model.encode(x), model.levels
    noise = _noise(np.arange(n), model.latent_dim)
    walks = {walk.level[0].item(): walk for walk, _ in posterior_passes(model, q, noise) if walk.level is not None}
    for row in (0, 5, 11):
        found = []
        for others in (top, 2, 1):
            level = torch.full((n,), others)
            level[row] = 2
            z = walks[others].z.clone()
            z[row] = walks[2].z[row]
            below = level - 1
            below[row] = 0
            walk = Walk(z, level, below)
            after, path = model.advance(walk, q, noise(0))
            assert path is not None
            drawn, _ = model.advance(walk, None, noise(1))
            mean = model.observe(walk).mean()
            found.append((after.z[row], path.sampled.log_prior[row], drawn.z[row], mean[row]))
            assert after.level is not None
            assert after.level.tolist() == below.tolist()
        for values in zip(*found, strict=True):
            assert all(torch.equal(values[0], other) for other in values[1:])


def test_a_path_in_one_call_in_pieces_and_in_company_is_the_same() -> None:
    """The noise of z_i is that of its example, draw and level, in any company."""
    model, dims = _model(), 64
    x = _rows(model, 6)
    whole = draw_terms(model, model.encode(x), x, _noise(np.arange(6), dims))
    for rows in ([0, 1, 2, 3, 4, 5][::-1], [3, 3, 3, 3, 3, 3]):
        some = draw_terms(model, model.encode(x[rows]), x[rows], _noise(rows, dims))
        torch.testing.assert_close(some.reconstruction, whole.reconstruction[rows], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(some.path.sampled.kl, whole.path.sampled.kl[rows], rtol=1e-6, atol=1e-6)


def test_the_encoder_walks_the_scored_path_without_the_network() -> None:
    """`descend` draws the z that `advance` scores, at every level."""
    model = _model()
    x = _rows(model, 5)
    q, noise = model.encode(x), _noise(np.arange(5), 64)
    scored = [walk.z for walk, _ in posterior_passes(model, q, noise)]
    walk, _ = model.begin(q, noise(4))
    model.network = torch.nn.Identity()
    for below, z in zip((3, 2, 1, 0), scored[1:], strict=True):
        walk = model.descend(walk, q, noise(below))
        assert torch.equal(walk.z, z)


def test_paths_have_the_marginals_of_the_encoder() -> None:
    """z_i of a path is N(a_i f, s_i^2) at every level, on a sub-grid too."""
    model, n = _model(BITS, num_levels=6), 4000
    x = _rows(model, 1).expand(n, 3, 4)
    q = model.encode(x)
    for steps in (6, 3):
        for walk, _ in posterior_passes(model, q, _noise(np.arange(n), 12), num_steps=steps):
            assert walk.level is not None
            marginal = model.marginal(q, walk.level)
            standardized = (walk.z - marginal.mean) / marginal.stddev
            assert float(standardized.mean(0).abs().max()) < 4.5 / math.sqrt(n)
            assert float((standardized.std(0) - 1).abs().max()) < 4.5 / math.sqrt(2 * n)


def test_a_sample_continues_from_the_latents_that_were_returned() -> None:
    """From z of a level on, with the same noise: the same z_0 as from the top."""
    model, noise = _model(), _noise(np.arange(4), 64, Stream.TRANSITION)
    whole = prior_walk(model, noise)
    walk, _ = model.begin(None, noise(4))
    for below in (3, 2):
        walk, _ = model.advance(to_level(walk, below), None, noise(below))
    level = torch.full((4,), 2)
    again = Walk(walk.z.clone(), level, level - 1)
    for below in (1, 0):
        again, _ = model.advance(to_level(again, below), None, noise(below))
    assert torch.equal(again.z, whole.z)


def test_sub_grids_share_their_first_latents() -> None:
    """z_T does not depend on the number of steps, and p is defined for any pair of levels."""
    model, x = _model(num_levels=8), _rows(_model(), 3)
    q, noise = model.encode(x), _noise(np.arange(3), 64)
    tops = []
    for steps in (1, 3, 8):
        walks = [walk for walk, _ in posterior_passes(model, q, noise, num_steps=steps)]
        assert len(walks) == steps + 1
        tops.append(walks[0].z)
        assert torch.equal(tops[0], tops[-1])
        assert draw_terms(model, q, x, noise, num_steps=steps).path.sampled.log_prior.isfinite().all()


def test_the_bound_map_sums_to_the_weight_of_its_path() -> None:
    model = _model()
    x = _rows(model, 5)
    q, noise = model.encode(x), _noise(np.arange(5), 64)
    for steps in (4, 2):
        found, drawn = bound_map(model, q, x, noise, num_steps=steps), draw_terms(model, q, x, noise, num_steps=steps)
        assert found.shape == x.shape
        torch.testing.assert_close(found.flatten(1).sum(1), drawn.reconstruction - drawn.path.sampled.kl)


def test_the_deterministic_step_keeps_the_noise_that_is_believed_in() -> None:
    """z = a m + s eps goes to a' m + s' eps, without a random number."""
    model = _model()
    z = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([4, 2, 1])
    walk = Walk(z, level, torch.tensor([2, 1, 0]))
    after = model.follow(walk)
    m, _ = model.denoise(z, level)
    gamma, below = model.gamma[level][:, None], model.gamma[torch.tensor([2, 1, 0])][:, None]
    eps = (z - torch.sigmoid(-gamma).sqrt() * m) / torch.sigmoid(gamma).sqrt()
    expected = torch.sigmoid(-below).sqrt() * m + torch.sigmoid(below).sqrt() * eps
    torch.testing.assert_close(after.z, expected.float())
    assert after.level is not None
    assert after.level.tolist() == [2, 1, 0]


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "discretized_logistic", "discretized_logistic_mixture"])
def test_an_untrained_model_believes_in_the_frequencies(name: str) -> None:
    """(count + 1)/(n + L) of every element at every latent and level; of grey values, mean probabilities of a one."""
    levels = 2 if name == "bernoulli" else 5
    generator = checkpoint.build(
        Blueprint(family="diffusion", spec=CONV, likelihood=name, event_shape=(4, 4), levels=levels)
    )
    assert isinstance(generator, Diffusion)
    rows = _rows(generator, 30)
    generator.initialize(rows)
    found = generator.eval().belief(torch.randn(7, 16), torch.arange(7)).log_levels().exp()
    counts = torch.stack([(rows == k).sum(0) for k in range(levels)], -1)
    torch.testing.assert_close(found, ((counts + 1) / (30 + levels)).double().expand_as(found), rtol=1e-5, atol=1e-6)


def test_networks_tell_places_and_levels_apart_once_trained() -> None:
    """Outputs begin as zero, and every layer then has a part in them."""
    for blueprint in (DIFFUSION, IMAGES):
        trained, z = _model(blueprint), torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
        level = torch.tensor([1, 3])
        same = trained.belief(z[:1].expand(2, -1), level).log_levels()
        assert not torch.equal(same[0], same[1])
        moved = trained.belief(z.roll(1, 1), level).log_levels()
        assert not torch.allclose(moved, trained.belief(z, level).log_levels())


def test_odd_images_and_channels_have_networks() -> None:
    spec = {**CONV, "patch": 1, "channels": [3, 5, 4]}
    model = _model(replace(DIFFUSION, event_shape=(3, 7, 5), spec=spec))
    assert model.decode(torch.randn(2, 105)).mean().shape == (2, 3, 7, 5)


def _refused(
    likelihood: str = "discretized_logistic", levels: int | None = 17, shape: Any = (8, 8), **spec: Any
) -> None:
    checkpoint.build(Blueprint(family="diffusion", spec=spec, likelihood=likelihood, event_shape=shape, levels=levels))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: _refused(num_levels=0), "num_levels must be 1 ... 4096, got 0: without levels there is no diffusion"),
        (lambda: _refused(num_levels=4097), "num_levels must be 1 ... 4096, got 4097"),
        (lambda: _refused(gamma_min=5.0, gamma_max=5.0), "gamma_min must be less than gamma_max"),
        (lambda: _refused(gamma_min=-21.0), "within -20 ... 20, got -21.0 and 5.0"),
        (lambda: _refused(schedule="sigmoid"), "spec.schedule: Input should be 'linear', 'cosine' or 'learned'"),
        (lambda: _refused(channels=[]), "sizes must be positive"),
        (lambda: _refused(blocks=0), "sizes must be positive"),
        (lambda: _refused(dropout=1.0), "dropout must be at least 0 and below 1"),
        (lambda: _refused(likelihood="continuous_bernoulli"), "no closed form: use gaussian, or levels"),
        (lambda: _refused(levels=257), "at most 256 levels, not 257: rescale the data, or use gaussian"),
        (lambda: _refused(network="conv", patch=3), "images of 8 x 8 have no blocks of 3 x 3 pixels"),
        (lambda: _refused(network="conv", channels=[2] * 5), "images of 8 x 8 cannot be halved 4 times"),
        (lambda: _refused(network="conv", shape=(8,)), r"convolutions need events of shape \(h, w\)"),
    ],
)
def test_what_is_no_diffusion_is_refused(build: Callable[[], None], reason: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=reason):
        build()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda gamma: gamma.flip(0), "gamma must be finite and ascend from level 0 to level T"),
        (lambda gamma: gamma.clamp(max=1), "gamma must be finite and ascend"),
        (lambda gamma: 10 * gamma, "within -20 ... 20"),
        (lambda gamma: gamma / 0, "weights.gamma has a value that is not finite"),
        (lambda gamma: gamma[:-1], r"weights.gamma is torch.float64 \(4,\), the spec asks for torch.float64 \(5,\)"),
        (lambda gamma: gamma.float(), "weights.gamma is torch.float32"),
    ],
)
def test_a_checkpoint_whose_levels_are_out_of_order_is_refused(change: Callable[[Tensor], Tensor], reason: str) -> None:
    model = _model()
    tensors = load(checkpoint.save(model))
    tensors["gamma"] = change(tensors["gamma"]).contiguous()
    with pytest.raises(InvalidCheckpoint, match=reason):
        checkpoint.load(model.blueprint, save(tensors))


def test_importance_weighted_training_is_refused() -> None:
    model = _model()
    with pytest.raises(NotImplementedError, match="has levels: its importance-weighted bound is not trained"):
        model.importance_objective(_rows(model, 2), torch.zeros(2, 3, 64))


def test_the_weights_of_levels_follow_held_out_rows() -> None:
    """w is 95 % in proportion to root mean squares of the KL from levels 1 ... T, and 5 % uniform; it is saved."""
    model = _model()
    assert torch.equal(model.level_weights, torch.full((4,), 0.25).double())
    kl = torch.tensor([[1.0, 2.0, 0.0, 3.0], [3.0, 2.0, 0.0, 4.0]])
    model.keep_profile(torch.tensor([-7.0, 1.0]), kl)
    rms = torch.tensor([math.sqrt(5), 2, 0, math.sqrt(12.5)]).double()
    expected = 0.95 * rms / rms.sum() + 0.05 / 4
    torch.testing.assert_close(model.level_weights, expected)
    loaded = checkpoint.load(model.blueprint, checkpoint.save(model))
    assert isinstance(loaded, Diffusion)
    assert torch.equal(loaded.level_weights, model.level_weights)
    assert float(model.profile[0]) == pytest.approx(5)


def test_log_snr_falls_with_the_level() -> None:
    model = _model(schedule="cosine")
    torch.testing.assert_close(model.log_snr, torch.log(torch.sigmoid(-model.gamma) / torch.sigmoid(model.gamma)))


def test_what_is_observed_above_level_zero_is_still_a_distribution_of_x() -> None:
    """E_post[x|z_i] is in data units and tends to the frequencies with the noise."""
    model = _model()
    x = _rows(model, 3)
    q = model.encode(x)
    for level in range(5):
        walk = model.visit(q, torch.full((3,), level), torch.zeros(3, 64))
        observed = model.observe(walk)
        assert observed.log_levels().shape == (3, 8, 8, 17)
        assert ((observed.mean() >= 0) & (observed.mean() <= 16)).all()


@pytest.mark.parametrize("value", [-0.5, math.nan])
def test_a_profile_that_is_no_root_mean_square_is_refused(value: float) -> None:
    """Levels sampled by weights below zero would give another number than the bound, and no error."""
    model = _model()
    tensors = dict(model.state_dict())
    tensors["profile"] = tensors["profile"].clone().index_fill_(0, torch.tensor([2]), value)
    with pytest.raises(ValueError, match="profile must be finite and not negative"):
        model.load_state_dict(tensors)


def test_a_learned_schedule_that_stands_still_is_refused() -> None:
    model = _model(schedule="learned")
    with torch.no_grad():
        assert model.increments is not None
        model.increments[1] = -1e30
    with pytest.raises(ValueError, match="gamma must be finite and ascend"):
        model.prepare()
