"""Oracle 3: a mixture's sums over its discrete latent are the truth, in float64."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint
from elbod.generators.mixture import Mixture
from elbod.generators.noise import Keys, Stream, normals
from elbod.generators.posteriors import CategoricalPosterior
from elbod.generators.priors import CategoricalPrior

COMPONENTS = 4


@pytest.fixture
def mixture() -> Mixture:
    blueprint = Blueprint(
        family="mixture", spec={"components": COMPONENTS}, likelihood="bernoulli", event_shape=(5,), levels=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        generator = checkpoint.build(blueprint).double().requires_grad_(False)
        assert isinstance(generator, Mixture)
        generator.logits.normal_()
        generator.outputs.normal_(std=2)
    return generator


def every_x() -> Tensor:
    return torch.tensor(list(product([0.0, 1.0], repeat=5)), dtype=torch.float64)


def brute_force(mixture: Mixture, x: Tensor) -> Tensor:
    """log p(z) + log p(x|z), (n, K), by products of probabilities."""
    weights = torch.softmax(mixture.logits, 0)
    p = torch.sigmoid(mixture.outputs[..., 0])
    likelihood = torch.where(x[:, None] == 1, p, 1 - p).prod(-1)
    return (weights * likelihood).log()


def test_the_evidence_is_the_sum_over_components_and_over_all_x_it_is_one(mixture: Mixture) -> None:
    x = every_x()
    expected = brute_force(mixture, x).exp().sum(1)
    torch.testing.assert_close(mixture.log_evidence(x).exp(), expected, rtol=1e-12, atol=0)
    assert float(expected.sum()) == pytest.approx(1, abs=1e-12)


def test_any_q_has_a_bound_that_misses_the_evidence_by_its_divergence_from_the_posterior(mixture: Mixture) -> None:
    """L + KL(q || p(z|x)) = log p(x) for a q that is not the posterior."""
    x = every_x()
    q = CategoricalPosterior(torch.log_softmax(torch.randn(len(x), COMPONENTS, dtype=torch.float64), -1))
    reconstruction = mixture.expected_log_likelihood(x, q).flatten(1).sum(1)
    bound = reconstruction - mixture.prior().kl(q)
    exact = brute_force(mixture, x) - mixture.log_evidence(x)[:, None]
    divergence = (q.log_probs.exp() * (q.log_probs - exact)).sum(1)
    assert (divergence > 0.01).all()
    torch.testing.assert_close(bound + divergence, mixture.log_evidence(x), rtol=1e-12, atol=1e-12)
    other_form = reconstruction + mixture.prior().expected_log_prob(q) + q.entropy()
    torch.testing.assert_close(other_form, bound, rtol=1e-12, atol=1e-12)


def test_every_weight_of_the_exact_posterior_is_the_evidence(mixture: Mixture) -> None:
    x = every_x()
    q = mixture.encode(x)
    for k in range(COMPONENTS):
        z = torch.full((len(x), 1), float(k), dtype=torch.float64)
        log_likelihood = mixture.decode(z).log_prob(x).sum(-1)
        log_weight = log_likelihood + mixture.prior().log_prob(z) - q.log_prob(z)
        torch.testing.assert_close(log_weight, mixture.log_evidence(x), rtol=1e-10, atol=1e-10)
    bound = mixture.expected_log_likelihood(x, q).flatten(1).sum(1) - mixture.prior().kl(q)
    torch.testing.assert_close(bound, mixture.log_evidence(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_components_are_drawn_by_their_tempered_weights(temperature: float) -> None:
    """weights ~ p^(1/T), within five binomial standard deviations."""
    log_probs = torch.log_softmax(torch.tensor([0.3, -1.0, 1.2, 0.0]).double(), 0)
    n = 50_000
    noise = torch.from_numpy(normals(Keys.of(5, range(n)), Stream.PRIOR, 1))
    drawn = CategoricalPrior(log_probs).draw(noise, temperature)[:, 0].long()
    expected = torch.softmax(log_probs / temperature, 0)
    error = (expected * (1 - expected) / n).sqrt()
    assert ((torch.bincount(drawn, minlength=4) / n - expected).abs() < 5 * error).all()


def test_temperature_zero_is_the_most_likely_component() -> None:
    q = CategoricalPosterior(torch.log_softmax(torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]).double(), -1))
    noise = torch.tensor([[3.0], [-3.0]])
    assert q.draw(noise, torch.zeros(2, 1)).tolist() == [[1.0], [0.0]]


def test_a_certain_posterior_has_no_entropy_and_no_nan() -> None:
    q = CategoricalPosterior(torch.tensor([[0.0, -torch.inf, -torch.inf]]).double())
    prior = CategoricalPrior(torch.log_softmax(torch.zeros(3).double(), 0))
    assert float(q.entropy()) == 0
    assert float(prior.kl(q)) == pytest.approx(np.log(3))
