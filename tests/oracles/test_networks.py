"""Oracles on tiny networks: what holds for any decoder, checked where every x or every z can be enumerated."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elbod.generators.base import Blueprint
from elbod.generators.bounds import elbo, importance_weighted
from elbod.generators.checkpoint import build
from elbod.generators.noise import Keys, Stream, normals
from elbod.generators.posteriors import DiagonalNormal
from elbod.generators.terms import ClosedForm
from elbod.generators.vae import VAE

LIKELIHOODS = [("bernoulli", None), ("discretized_logistic", 17), ("gaussian", None)]


def _vae(likelihood: str, levels: int | None, features: int, latent_dim: int) -> VAE:
    """float64 weights that are a pure function of the sizes."""
    spec = {"latent_dim": latent_dim, "hidden": [6], "activation": "tanh"}
    blueprint = Blueprint(family="vae", spec=spec, likelihood=likelihood, event_shape=(features,), levels=levels)
    model = build(blueprint).double().eval().requires_grad_(False)
    assert isinstance(model, VAE)
    for i, parameter in enumerate(model.parameters()):
        noise = normals(Keys.of(7, [i]), Stream.PRIOR, parameter.numel())
        parameter.copy_(0.5 * torch.from_numpy(noise).reshape(parameter.shape))
    return model


def _silence(network: nn.Sequential) -> None:
    """The last layer's weights become zero: the output is its bias, whatever the input."""
    last = network[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()


def _every_binary_row(features: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=features)), dtype=torch.float64)


def _evidence(model: VAE, x: Tensor, nodes: int) -> Tensor:
    """p(x) (n,) = integral of p(x|z) N(z; 0, I) dz by Gauss and Hermite's rule, `nodes` in each dimension."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights /= math.sqrt(2 * math.pi)
    z = torch.tensor(list(itertools.product(points, repeat=model.latent_dim)))
    w = torch.tensor([math.prod(c) for c in itertools.product(weights, repeat=model.latent_dim)], dtype=torch.float64)
    # Elements are independent given z, so the rows of zeros and of ones hold every term.
    off, on = (model.decode(z).log_prob(torch.full((len(z), x.shape[1]), bit)) for bit in (0.0, 1.0))
    return (x @ on.mT + (1 - x) @ off.mT).exp() @ w


def _draws(model: VAE, x: Tensor, q: DiagonalNormal, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(x|z_s), log p(z_s) and -log q(z_s|x) for one x (1, D), each (count,)."""
    noise = torch.from_numpy(normals(Keys.of(3, [0], np.arange(count)), Stream.POSTERIOR, model.latent_dim))
    z = q.draw(noise)
    r = model.decode(z).log_prob(x.expand(count, -1)).sum(-1)
    return r.numpy(), model.prior().log_prob(z).numpy(), -q.log_prob(z).numpy()


# Oracle 4: a constant decoder.


@pytest.mark.parametrize(("likelihood", "levels"), LIKELIHOODS)
def test_a_constant_decoder_loses_exactly_the_kl(likelihood: str, levels: int | None) -> None:
    """Where x does not depend on z the posterior is the prior: L = log p(x) - KL(q || p(z)), for every draw."""
    model = _vae(likelihood, levels, 5, 3)
    _silence(model.decoder)
    x = torch.tensor([[0, 1, 1, 0, 1]], dtype=torch.float64)
    q, prior = model.encode(x), model.prior()
    r, _, _ = _draws(model, x, q, 20)
    log_evidence = float(model.decode(torch.zeros(1, 3)).log_prob(x).sum())
    kl, c, h = (float(term) for term in (prior.kl(q), prior.expected_log_prob(q), q.entropy()))
    assert kl > 0.1
    m, s = q.mean[0].numpy(), q.stddev[0].numpy()
    assert kl == pytest.approx(float((0.5 * (m**2 + s**2 - 1) - np.log(s)).sum()), rel=1e-12)
    e = elbo(r[None], ClosedForm(*(np.array([[term]]) for term in (kl, c, h))))
    assert float(e.elbo[0]) == pytest.approx(log_evidence - kl, abs=1e-12)
    assert float(e.standard_error[0]) == pytest.approx(0, abs=1e-12)


# Oracle 5: every x of a tiny binary model.


@pytest.mark.parametrize(("features", "latent_dim", "nodes"), [(12, 1, 80), (6, 2, 50)])
def test_a_binary_model_sums_to_one_over_every_x(features: int, latent_dim: int, nodes: int) -> None:
    """The sum of p(x) over all 2^D rows is 1, and n and 2n nodes agree on every p(x) to 1e-8 of it."""
    model, x = _vae("bernoulli", None, features, latent_dim), _every_binary_row(features)
    coarse, fine = _evidence(model, x, nodes), _evidence(model, x, 2 * nodes)
    assert float(fine.sum()) == pytest.approx(1, abs=1e-12)
    assert float((coarse / fine - 1).abs().max()) < 1e-8


@pytest.mark.parametrize("count", [1, 5, 50])
def test_the_mean_of_the_exponentiated_bound_is_the_evidence(count: int) -> None:
    """E[exp(iwae_K)] = p(x) by quadrature, for every K, within four standard errors of 4,000 estimates."""
    model = _vae("bernoulli", None, 6, 2)
    x = torch.tensor([[1, 0, 1, 1, 0, 0]], dtype=torch.float64)
    log_evidence = float(_evidence(model, x, 100).log())
    q = DiagonalNormal(model.encode(x).mean.clamp(-0.5, 0.5), torch.tensor([[0.9, 1.1]], dtype=torch.float64))
    log_w = sum(_draws(model, x, q, 4000 * count)).reshape(4000, count)
    relative = np.exp(importance_weighted(log_w).iwae - log_evidence)
    assert abs(relative.mean() - 1) < 4 * relative.std(ddof=1) / math.sqrt(4000)


def test_the_bound_and_its_gap_add_up_to_the_evidence() -> None:
    """log p(x) = L + KL(q || p(z|x)), each side by its own quadrature over z."""
    model = _vae("bernoulli", None, 6, 1)
    x = torch.tensor([[1, 0, 1, 1, 0, 0]], dtype=torch.float64)
    q, prior = model.encode(x), model.prior()
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    step = 24 / 20_000
    log_q = DiagonalNormal(q.mean.expand_as(z), q.stddev.expand_as(z)).log_prob(z)
    log_joint = model.decode(z).log_prob(x.expand(len(z), -1)).sum(-1) + prior.log_prob(z)
    log_evidence = math.log(float(log_joint.exp().sum()) * step)
    kl_to_posterior = float((log_q.exp() * (log_q - log_joint + log_evidence)).sum()) * step
    reconstruction = float((log_q.exp() * (log_joint - prior.log_prob(z))).sum()) * step
    assert kl_to_posterior > 0.01
    bound = reconstruction - float(prior.kl(q))
    assert bound + kl_to_posterior == pytest.approx(log_evidence, abs=1e-9)
    r, _, _ = _draws(model, x, q, 4000)
    assert abs(float(r.mean()) - reconstruction) < 4 * float(r.std(ddof=1)) / math.sqrt(4000)


# Oracle 8: posterior = prior.


@pytest.mark.parametrize(("likelihood", "levels"), LIKELIHOODS)
def test_an_encoder_that_says_the_prior_has_no_kl(likelihood: str, levels: int | None) -> None:
    """q = N(0, I): KL = 0 exactly, every part of it too, and the elbo is the mean reconstruction."""
    model = _vae(likelihood, levels, 5, 3)
    _silence(model.encoder)
    bias = model.encoder[-1].bias
    assert isinstance(bias, Tensor)
    bias.zero_()
    x = torch.tensor([[0, 1, 1, 0, 1]], dtype=torch.float64)
    q, prior = model.encode(x), model.prior()
    parts = prior.kl_per_dimension(q)
    assert parts is not None
    assert parts.tolist() == [[0, 0, 0]]
    assert prior.kl(q).tolist() == [0]
    r, log_prior, minus_log_q = _draws(model, x, q, 50)
    np.testing.assert_allclose(log_prior + minus_log_q, 0, atol=1e-13)
    c, h = float(prior.expected_log_prob(q)), float(q.entropy())
    assert c + h == pytest.approx(0, abs=1e-13)
    e = elbo(r[None], ClosedForm(np.zeros((1, 1)), np.array([[c]]), np.array([[h]])))
    assert e.elbo.tolist() == pytest.approx([r.mean()], rel=1e-13)
    assert (e.elbo == e.reconstruction).all()
