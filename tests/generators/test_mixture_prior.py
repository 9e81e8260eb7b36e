"""The VampPrior's mixture, and bounds whose prior terms are sampled."""

import numpy as np
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from elbod.generators import bounds, checkpoint
from elbod.generators.base import Blueprint
from elbod.generators.noise import Keys, Stream, normals
from elbod.generators.posteriors import DiagonalNormal
from elbod.generators.priors import NormalMixture, StandardNormal
from elbod.generators.terms import Sampled
from elbod.generators.vae import VAE


def mixture(components: int = 7, dimensions: int = 3) -> NormalMixture:
    rng = torch.Generator().manual_seed(3)
    mean = 3 * torch.randn(components, dimensions, generator=rng, dtype=torch.float64)
    return NormalMixture(mean, torch.rand(components, dimensions, generator=rng, dtype=torch.float64) + 0.05)


def test_the_density_is_that_of_an_equal_mixture_of_normals() -> None:
    p = mixture()
    reference = MixtureSameFamily(Categorical(logits=torch.zeros(7).double()), Independent(Normal(p.mean, p.stddev), 1))
    z = 10 * torch.randn(200, 3, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), reference.log_prob(z), rtol=1e-10, atol=1e-10)


def test_the_density_survives_very_narrow_components() -> None:
    mean = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    p = NormalMixture(mean, torch.full((1, 2), np.exp(-7), dtype=torch.float64))
    z = mean + np.exp(-7) * torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    expected = Normal(p.mean, p.stddev).log_prob(z).sum(1)
    torch.testing.assert_close(p.log_prob(z), expected, rtol=0, atol=1e-7)


def test_draws_have_the_density() -> None:
    """E[f(z)] under draws equals the mixture's moments within five standard errors; all components occur equally."""
    p, n = mixture(), 40_000
    noise = torch.from_numpy(normals(Keys.of(1, range(n)), Stream.PRIOR, p.noise_dimensions))
    z = p.draw(noise)
    second = (p.mean**2 + p.stddev**2).mean(0)
    for values, expected in ((z, p.mean.mean(0)), (z**2, second)):
        error = values.std(0) / n**0.5
        assert ((values.mean(0) - expected).abs() < 5 * error).all()
    centers = p.draw(noise, temperature=0.0)
    _, counts = torch.unique(centers, dim=0, return_counts=True)
    assert len(counts) == 7
    assert (counts - n / 7).abs().max() < 5 * (n * (1 / 7) * (6 / 7)) ** 0.5


def test_sampled_prior_terms_agree_with_the_closed_form_kl() -> None:
    """For q = N(mean, diag) and p = N(0, I) the sampled c_s + h_s has the mean -KL, within four standard errors."""
    q = DiagonalNormal(torch.tensor([[0.4, -1.0]]).double(), torch.tensor([[0.3, 1.7]]).double())
    z = q.draw(torch.from_numpy(normals(Keys.of(2, [0] * 20_000, range(20_000)), Stream.POSTERIOR, 2)))
    sampled = StandardNormal(2).log_prob(z) - q.log_prob(z)
    assert (sampled.mean() + StandardNormal(2).kl(q)).abs() < 4 * sampled.std() / 20_000**0.5


def test_a_sampled_kl_may_be_negative_and_is_not_clipped() -> None:
    terms = Sampled(log_prior=np.array([[-1.0, -1.5]]), log_q=np.array([[-3.0, -2.0]]))
    bound = bounds.elbo(np.array([[-10.0, -11.0]]), terms)
    assert bound.kl[0] == -1.25
    assert bound.elbo[0] == bound.log_joint[0] + bound.entropy[0] == -9.25


def vamp() -> VAE:
    blueprint = Blueprint(
        family="vae",
        spec={"latent_dim": 2, "hidden": [8], "prior": "vamp", "pseudo_inputs": 5},
        likelihood="bernoulli",
        event_shape=(6,),
        levels=2,
    )
    generator = checkpoint.build(blueprint)
    assert isinstance(generator, VAE)
    generator.initialize(torch.rand(20, 6).round())
    return generator


def test_the_components_are_the_posteriors_of_the_pseudo_inputs() -> None:
    generator = vamp().eval()
    assert generator.kl_estimator == "monte_carlo"
    q = generator.encode(generator.pseudo_inputs.detach() * generator.scale + generator.shift)
    prior = generator.prior()
    assert isinstance(prior, NormalMixture)
    torch.testing.assert_close(prior.mean, q.mean)
    torch.testing.assert_close(prior.stddev, q.stddev)


def test_a_prepared_prior_is_forgotten_when_training_goes_on() -> None:
    generator = vamp().eval()
    generator.prepare()
    assert generator.prior() is generator.prior()
    with torch.no_grad():
        generator.pseudo_inputs.add_(1.0)
    generator.train()
    assert generator.prior() is not generator.prior()
    loss = -generator.prior().log_prob(torch.zeros(1, 2)).sum()
    loss.backward()
    assert generator.pseudo_inputs.grad is not None
    assert generator.pseudo_inputs.grad.abs().sum() > 0
