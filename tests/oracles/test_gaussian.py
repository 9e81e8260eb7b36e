"""Oracles on a linear Gaussian model, whose evidence and posterior are known without any bound.

z ~ N(0, I), x = W z + mu + sigma eps. Here the joint covariance of (z, x) is written down in full and conditioned by
the textbook formulas, with none of the lemmas that the family itself uses.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from elbod.generators.base import Blueprint
from elbod.generators.bounds import Elbo, elbo, importance_weighted, pareto_k_limit
from elbod.generators.checkpoint import build
from elbod.generators.noise import Keys, Stream, normals
from elbod.generators.pareto import pareto_k
from elbod.generators.posteriors import DiagonalNormal, Posterior
from elbod.generators.ppca import PPCA
from elbod.generators.terms import ClosedForm, Sampled

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A model and one x (1, D), with what the full joint covariance says about them."""

    model: PPCA
    x: Tensor

    @property
    def log_evidence(self) -> float:
        """log N(x; mu, WW' + sigma^2 I) by the D x D covariance."""
        W, sigma = self.model.loadings, self.model.noise
        covariance = W @ W.mT + (sigma**2).expand(len(W)).diag()
        return float(MultivariateNormal(self.model.location, covariance).log_prob(self.x[0]))

    @property
    def posterior(self) -> MultivariateNormal:
        """z|x from the joint Gaussian: W'C^-1 (x - mu) and I - W'C^-1 W with C = WW' + sigma^2 I."""
        W, sigma = self.model.loadings.numpy(), float(self.model.noise)
        gain = np.linalg.solve(W @ W.T + sigma**2 * np.eye(len(W)), W).T
        mean = gain @ (self.x[0] - self.model.location).numpy()
        return MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(np.eye(W.shape[1]) - gain @ W))

    def draws(self, q: Posterior, count: int, first: int = 0) -> tuple[Floats, Floats, Floats]:
        """log p(x|z_s), log p(z_s) and -log q(z_s|x) of draws first ... first + count - 1, each (1, count)."""
        keys = Keys.of(2**61, [5], np.arange(first, first + count))
        noise = torch.from_numpy(normals(keys, Stream.POSTERIOR, self.model.latent_dim))
        z = q.draw(noise)
        r = self.model.decode(z).log_prob(self.x).sum(-1)
        return r.numpy()[None], self.model.prior().log_prob(z).numpy()[None], -q.log_prob(z).numpy()[None]

    def closed_terms(self, q: Posterior) -> ClosedForm[Floats]:
        closed = self.model.prior().closed_form(q)
        assert closed is not None
        return ClosedForm(*(term.numpy()[:, None] for term in (closed.kl, closed.log_prior, closed.entropy)))

    def reconstruction(self, mean: Tensor, covariance: Tensor) -> float:
        """E_q[log p(x|z)] = log N(x; W m + mu, sigma^2 I) - tr(W S W')/(2 sigma^2)."""
        W, sigma = self.model.loadings, self.model.noise
        residual = self.x[0] - W @ mean - self.model.location
        square = residual @ residual + (W @ covariance @ W.mT).trace()
        return float(-0.5 * square / sigma**2 - len(residual) * (sigma.log() + 0.5 * math.log(2 * math.pi)))


def _model(W: Tensor, sigma: float) -> PPCA:
    features, latent_dim = W.shape
    model = build(
        Blueprint(family="ppca", spec={"latent_dim": latent_dim}, likelihood="gaussian", event_shape=(features,))
    )
    assert isinstance(model, PPCA)
    model.loadings, model.noise = W, torch.tensor(sigma, dtype=torch.float64)
    model.location = torch.linspace(-2, 3, features, dtype=torch.float64)
    return model


def _problem(features: int, latent_dim: int, sigma: float, seed: int = 0) -> Problem:
    noise = torch.from_numpy(normals(Keys.of(seed, np.arange(features + 1)), Stream.PRIOR, max(features, latent_dim)))
    model = _model(noise[:features, :latent_dim].contiguous(), sigma)
    return Problem(model, model.location + 1.5 * noise[features:, :features])


def _with_precision(precision: Tensor) -> Problem:
    """sigma = 1/2 and W such that I + W'W/sigma^2 is that posterior precision."""
    d, sigma = len(precision), 0.5
    root = torch.linalg.cholesky(precision - torch.eye(d), upper=True)
    W = sigma * torch.cat([root, torch.zeros(1, d)])
    model = _model(W.double(), sigma)
    return Problem(model, model.location + torch.linspace(1, -1, d + 1, dtype=torch.float64)[None])


def _best_diagonal(problem: Problem) -> DiagonalNormal:
    """The posterior mean, and a variance of 1/Lambda_ii."""
    precision = problem.posterior.precision_matrix
    return DiagonalNormal(problem.posterior.mean[None], precision.diagonal().rsqrt()[None])


def _widened(problem: Problem, factor: float) -> DiagonalNormal:
    q = _best_diagonal(problem)
    return DiagonalNormal(q.mean, factor * q.stddev)


def _kl_to_posterior(problem: Problem, q: DiagonalNormal) -> float:
    return float(kl_divergence(MultivariateNormal(q.mean[0], (q.stddev[0] ** 2).diag()), problem.posterior))


problems = pytest.mark.parametrize(
    "problem",
    [_problem(2, 1, 1.0), _problem(5, 2, 0.3), _problem(8, 7, 0.1), _problem(40, 10, 0.5), _problem(100, 3, 2.0)],
    ids=lambda p: f"{len(p.model.location)}x{p.model.latent_dim}",
)

# Oracle 1: the exact posterior.


@problems
def test_the_evidence_is_the_marginals(problem: Problem) -> None:
    """log_evidence is log N(x; mu, WW' + sigma^2 I) by the D x D covariance."""
    assert problem.model.log_evidence(problem.x).tolist() == pytest.approx([problem.log_evidence], rel=1e-12, abs=1e-10)


@problems
def test_the_encoder_is_the_conditional_of_the_joint(problem: Problem) -> None:
    """q(z|x) has the mean and the covariance that conditioning the joint Gaussian on x gives."""
    q, posterior = problem.model.encode(problem.x), problem.posterior
    torch.testing.assert_close(q.parameters["mean"][0], posterior.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.parameters["stddev"][0], posterior.stddev, rtol=1e-9, atol=1e-9)
    z = posterior.mean + torch.eye(len(posterior.mean)) * posterior.stddev
    torch.testing.assert_close(q.log_prob(z), posterior.log_prob(z), rtol=1e-9, atol=1e-9)


@problems
def test_every_weight_of_the_exact_posterior_is_the_evidence(problem: Problem) -> None:
    """log p(x, z) - log q(z|x) = log p(x) for every draw, at any temperature of it, and for every iwae_K."""
    q = problem.model.encode(problem.x)
    r, log_prior, minus_log_q = problem.draws(q, 500)
    log_w = r + log_prior + minus_log_q
    assert np.abs(log_w - problem.log_evidence).max() < 1e-10
    for count in (1, 2, 50, 500):
        w = importance_weighted(log_w[:, :count])
        assert abs(float(w.iwae[0]) - problem.log_evidence) < 1e-10
        assert 0 <= float(w.gap[0]) < 1e-10
        assert float(w.effective_sample_size[0]) == pytest.approx(count)
        assert np.isnan(w.pareto_k).all()


@problems
def test_the_elbo_of_the_exact_posterior_is_the_evidence(problem: Problem) -> None:
    """Within four standard errors where the reconstruction is sampled, exactly where it is in closed form."""
    q = problem.model.encode(problem.x)
    terms = problem.closed_terms(q)
    e = elbo(problem.draws(q, 2000)[0], terms)
    assert abs(float(e.elbo[0]) - problem.log_evidence) < 4 * float(e.standard_error[0])
    r = np.array([[problem.reconstruction(problem.posterior.mean, problem.posterior.covariance_matrix)]])
    exact = elbo(r, terms)
    assert float(exact.elbo[0]) == pytest.approx(problem.log_evidence, abs=1e-9)
    assert float(exact.log_joint[0] + exact.entropy[0]) == pytest.approx(problem.log_evidence, abs=1e-9)


@problems
def test_sampled_terms_are_the_closed_forms_in_mean(problem: Problem) -> None:
    """KL, E_q[log p(z)] and H[q] within four standard errors of 4,000 draws of log q and log p."""
    q = problem.model.encode(problem.x)
    _, log_prior, minus_log_q = problem.draws(q, 4000)
    closed = problem.closed_terms(q)
    for term, draws in (
        (closed.kl, -minus_log_q - log_prior),
        (closed.log_prior, log_prior),
        (closed.entropy, minus_log_q),
    ):
        assert abs(float(term[0, 0]) - draws.mean()) < 4 * draws.std(ddof=1) / math.sqrt(4000)


# Oracle 2: the best diagonal posterior.

PRECISIONS = {
    "independent": [[3.0, 0, 0], [0, 5, 0], [0, 0, 2]],
    "correlated": [[4.0, 1.5, -1], [1.5, 3, 0.2], [-1, 0.2, 6]],
    "narrow": (30 * (torch.eye(3) * 1.48 - 0.48)).tolist(),
}
precisions = pytest.mark.parametrize("precision", list(PRECISIONS.values()), ids=list(PRECISIONS))


@precisions
def test_the_gap_of_the_best_diagonal_posterior_is_known(precision: list[list[float]]) -> None:
    """log p(x) - L = (sum log Lambda_ii - log|Lambda|)/2 with q = N(posterior mean, 1/Lambda_ii)."""
    matrix = torch.tensor(precision, dtype=torch.float64)
    problem = _with_precision(matrix)
    torch.testing.assert_close(problem.posterior.precision_matrix, matrix, rtol=1e-8, atol=1e-8)
    q = _best_diagonal(problem)
    gap = 0.5 * float(matrix.diagonal().log().sum() - torch.linalg.slogdet(matrix).logabsdet)
    terms = problem.closed_terms(q)
    closed = problem.reconstruction(q.mean[0], (q.stddev[0] ** 2).diag())
    assert problem.log_evidence - float(elbo(np.array([[closed]]), terms).elbo[0]) == pytest.approx(gap, abs=1e-9)
    assert gap == pytest.approx(_kl_to_posterior(problem, q), abs=1e-9)
    e = elbo(problem.draws(q, 4000)[0], terms)
    assert abs(problem.log_evidence - gap - float(e.elbo[0])) < 4 * float(e.standard_error[0])


@precisions
def test_no_other_diagonal_posterior_is_better(precision: list[list[float]]) -> None:
    """Any other variance or mean has the larger gap, and log p(x) = L + KL(q || p(z|x)) for each of them."""
    problem = _with_precision(torch.tensor(precision, dtype=torch.float64))
    best = _best_diagonal(problem)
    for i in range(3):
        for factor, shift in ((0.8, 0.0), (0.99, 0.0), (1.01, 0.0), (1.3, 0.0), (1.0, 0.05)):
            step = torch.zeros(3, dtype=torch.float64)
            step[i] = 1
            q = DiagonalNormal(best.mean + shift * step, best.stddev * factor**step)
            closed = problem.reconstruction(q.mean[0], (q.stddev[0] ** 2).diag())
            bound = float(elbo(np.array([[closed]]), problem.closed_terms(q)).elbo[0])
            kl = _kl_to_posterior(problem, q)
            assert kl > _kl_to_posterior(problem, best)
            assert bound + kl == pytest.approx(problem.log_evidence, abs=1e-8)


def test_k_hat_warns_of_a_narrow_posterior_and_only_with_the_right_sign() -> None:
    """Tail index 1 - 1.2/30 = 0.96 of w, 44.4/30 - 1 = 0.48 of 1/w: the median k-hat of 20 seeds tells them apart.

    Lambda has eigenvalues 1.2 and 44.4 (twice) where q has 30: w is unbounded along the first, 1/w along the others.
    A fit to negated log weights would report 0.48 and warn of nothing.
    """
    problem = _with_precision(torch.tensor(PRECISIONS["narrow"], dtype=torch.float64))
    count, q = 5000, _best_diagonal(problem)
    log_w = np.concatenate([sum(problem.draws(q, count, seed * count)) for seed in range(20)])
    k_hat = float(np.median(pareto_k(log_w)))
    flipped = float(np.median(pareto_k(-log_w)))
    assert k_hat > 0.7
    assert k_hat == pytest.approx(0.96, abs=0.15)
    assert flipped == pytest.approx(0.48, abs=0.1)
    assert not flipped > 0.7
    w = importance_weighted(log_w)
    withheld = np.isnan(w.iwae_standard_error)
    assert np.array_equal(withheld, (w.pareto_k > pareto_k_limit(count)) & (w.effective_sample_size < 0.9 * count))
    assert withheld.mean() > 0.5
    assert np.isfinite(w.gap_standard_error).all()


# Oracles 6 and 7: the bound in K, and the errors.


def _repeated(problem: Problem, q: Posterior, groups: int, count: int, first: int = 0) -> Floats:
    """(groups, count) log weights of independent draws."""
    log_w: Floats = sum(problem.draws(q, groups * count, first)).reshape(groups, count)
    return log_w


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_the_bound_grows_with_the_draws_up_to_the_evidence(factor: float) -> None:
    """E[iwae_K] over independent groups rises from L at K = 1 through K = 5 to K = 50 and stays below log p(x)."""
    problem = _with_precision(torch.tensor(PRECISIONS["correlated"], dtype=torch.float64))
    q = _widened(problem, factor)
    groups, means, errors, first = 4000, [], [], 0
    for count in (1, 5, 50):
        iwae = importance_weighted(_repeated(problem, q, groups, count, first)).iwae
        first += groups * count
        means.append(iwae.mean())
        errors.append(iwae.std(ddof=1) / math.sqrt(groups))
    bound = problem.log_evidence - _kl_to_posterior(problem, q)
    assert abs(means[0] - bound) < 4 * errors[0]
    # Each step is larger than its noise, so the order is a fact and not a coin.
    assert means[1] - means[0] > 4 * math.hypot(errors[0], errors[1])
    assert means[2] - means[1] > 4 * math.hypot(errors[1], errors[2])
    assert means[2] < problem.log_evidence + 4 * errors[2]
    # To second order log p(x) - E[iwae_K] = Var(w)/(2 K): a missing log K would be 3.9 nats above.
    assert problem.log_evidence - means[2] < 0.1


def test_the_mean_weight_is_unbiased() -> None:
    """E[exp(iwae_K)] = p(x), at any K."""
    problem = _with_precision(torch.tensor(PRECISIONS["correlated"], dtype=torch.float64))
    q = _widened(problem, 1.3)
    for count in (1, 5, 50):
        log_w = _repeated(problem, q, 4000, count)
        relative = np.exp(importance_weighted(log_w).iwae - problem.log_evidence)
        assert abs(relative.mean() - 1) < 4 * relative.std(ddof=1) / math.sqrt(4000)


def test_the_paired_gap_is_a_lower_estimate_of_the_true_one() -> None:
    """E[gap_K] rises with K to KL(q || p(z|x)) from below, and its error covers its own spread."""
    problem = _with_precision(torch.tensor(PRECISIONS["correlated"], dtype=torch.float64))
    q = _widened(problem, 1.3)
    true = _kl_to_posterior(problem, q)
    means = []
    for count in (2, 10, 200):
        w = importance_weighted(_repeated(problem, q, 2000, count))
        means.append(w.gap.mean())
        assert w.gap.mean() < true + 4 * w.gap.std(ddof=1) / math.sqrt(2000)
    assert means[0] < means[1] < means[2]
    assert means[2] == pytest.approx(true, abs=0.02)
    assert w.gap_standard_error.mean() == pytest.approx(w.gap.std(ddof=1), rel=0.1)


def _score(problem: Problem, q: Posterior, groups: int, count: int, sampled: bool) -> Elbo:
    r, log_prior, minus_log_q = (term.reshape(groups, count) for term in problem.draws(q, groups * count))
    if sampled:
        return elbo(r, Sampled(log_prior, -minus_log_q))
    return elbo(r, problem.closed_terms(q))


@pytest.mark.parametrize("sampled", [False, True], ids=["closed_form", "monte_carlo"])
@pytest.mark.parametrize(("count", "tolerance"), [(50, 0.03), (400, 0.015)])
def test_intervals_of_the_elbo_cover_the_bound(count: int, tolerance: float, sampled: bool) -> None:
    """Student's 95 % intervals around 4,000 estimates contain L in 95 % of the cases."""
    problem = _with_precision(torch.tensor(PRECISIONS["correlated"], dtype=torch.float64))
    q = _widened(problem, 1.3)
    bound = problem.log_evidence - _kl_to_posterior(problem, q)
    e = _score(problem, q, 4000, count, sampled)
    covered = np.abs(e.elbo - bound) < stats.t.ppf(0.975, count - 1) * e.standard_error
    assert covered.mean() == pytest.approx(0.95, abs=tolerance)


@pytest.mark.parametrize("sampled", [False, True], ids=["closed_form", "monte_carlo"])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_the_squared_error_is_the_variance_of_the_estimates(count: int, sampled: bool) -> None:
    """In mean, at every S: with a divisor of S, or parts added in quadrature, it is not."""
    problem = _with_precision(torch.tensor(PRECISIONS["correlated"], dtype=torch.float64))
    e = _score(problem, _widened(problem, 1.3), 8000, count, sampled)
    assert np.square(e.standard_error).mean() == pytest.approx(e.elbo.var(ddof=1), rel=0.1)


def test_intervals_of_the_importance_weighted_bound_cover_the_evidence() -> None:
    """With weights of finite variance, 95 % intervals of 2,000 estimates at K = 400 contain log p(x) in 95 %."""
    problem = _with_precision(torch.tensor(PRECISIONS["correlated"], dtype=torch.float64))
    w = importance_weighted(_repeated(problem, _widened(problem, 1.3), 2000, 400))
    covered = np.abs(w.iwae - problem.log_evidence) < 1.96 * w.iwae_standard_error
    assert covered.mean() == pytest.approx(0.95, abs=0.02)
    assert np.square(w.iwae_standard_error).mean() == pytest.approx(w.iwae.var(ddof=1), rel=0.1)


@pytest.mark.parametrize("sampled", [False, True], ids=["closed_form", "monte_carlo"])
def test_the_error_falls_as_the_square_root_of_the_draws(sampled: bool) -> None:
    """log of the root-mean-square error, and of the reported one, against log S has slope -1/2."""
    problem = _with_precision(torch.tensor(PRECISIONS["correlated"], dtype=torch.float64))
    q = _widened(problem, 1.3)
    bound = problem.log_evidence - _kl_to_posterior(problem, q)
    counts = np.array([4, 16, 64, 256])
    actual, reported = [], []
    for count in counts:
        e = _score(problem, q, 1500, int(count), sampled)
        actual.append(np.sqrt(np.square(e.elbo - bound).mean()))
        reported.append(np.sqrt(np.square(e.standard_error).mean()))
    assert np.polyfit(np.log(counts), np.log(actual), 1)[0] == pytest.approx(-0.5, abs=0.03)
    assert np.polyfit(np.log(counts), np.log(reported), 1)[0] == pytest.approx(-0.5, abs=0.03)


# Oracle 8: posterior = prior.


@pytest.mark.parametrize("latent_dim", [1, 3, 10])
def test_a_model_that_ignores_its_latents_has_no_kl(latent_dim: int) -> None:
    """With W = 0 the posterior is the prior: KL = 0 exactly, and the elbo is log N(x; mu, sigma^2 I), drawn or not."""
    problem = Problem(_model(torch.zeros(12, latent_dim).double(), 1.0), torch.ones(1, 12).double())
    q = problem.model.encode(problem.x)
    terms = problem.closed_terms(q)
    assert terms.kl.tolist() == [[0.0]]
    assert float(terms.log_prior[0, 0] + terms.entropy[0, 0]) == pytest.approx(0, abs=1e-13)
    r, log_prior, minus_log_q = problem.draws(q, 7)
    np.testing.assert_allclose(log_prior + minus_log_q, 0, atol=1e-13)
    e = elbo(r, terms)
    assert float(e.elbo[0]) == pytest.approx(problem.log_evidence, abs=1e-12)
    assert float(e.standard_error[0]) == pytest.approx(0, abs=1e-13)
