"""Bounds on log p(x) and their errors, from log-densities per row and draw: pure functions in float64.

    log p(x) = L(x) + KL(q(z|x) || p(z|x)),   L(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z)) = E_q[log p(x, z)] + H[q]

Every array has one row per example and one column per draw; reductions run along the columns of one row only, in a
fixed order, so a row's numbers do not depend on the rows beside it. Natural logarithms; higher is better.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from elbod.generators.pareto import pareto_k
from elbod.generators.terms import ClosedForm, Conditional, KnownEntropy, LatentTerms, Marginal, Sampled, Terms

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Elbo:
    """One number a row, nats: elbo = reconstruction - kl = log_joint + entropy."""

    elbo: Floats
    standard_error: Floats
    reconstruction: Floats
    kl: Floats
    log_joint: Floats
    entropy: Floats


def elbo(reconstruction: Floats, terms: LatentTerms[Floats]) -> Elbo:
    """The evidence lower bound from r_s = log p(x|z_s), (n, S), and terms that are (n, S), or (n, 1) in closed form.

    elbo = mean(r - k); standard_error = sd(r - k, ddof=1)/sqrt(S), paired, NaN at S = 1.
    """
    per_draw = reconstruction - terms.kl
    return Elbo(
        elbo=_mean(per_draw),
        standard_error=_standard_error(per_draw),
        reconstruction=_mean(reconstruction),
        kl=_mean(terms.kl),
        log_joint=_mean(reconstruction + terms.log_prior),
        entropy=_mean(terms.entropy),
    )


def bound(terms: Terms, samples: int) -> Elbo:
    """The ELBO of each row's first draws; where nothing has to be drawn, its error is zero."""
    expected = terms.rows.expected_reconstruction
    if expected is None or terms.label_log_prob is not None:
        return elbo(*sampled_bound(terms, samples))
    exact = elbo(expected[:, None], _latent(terms, samples))
    return replace(exact, standard_error=np.zeros_like(exact.elbo))


def sampled_bound(terms: Terms, samples: int) -> tuple[Floats, LatentTerms[Floats]]:
    """log p(x|z_s), (n, S), of each row's first draws, and the terms of their latents."""
    if terms.label_log_prob is not None:
        return label_draws(terms, samples).marginal()
    return terms.draws.reconstruction[:, :samples], _latent(terms, samples)


def label_draws(terms: Terms, samples: int) -> "LabelDraws":
    """The first draws under each label: closed forms would bias a marginal up."""
    assert terms.label_log_prob is not None
    path, log_q = terms.draws.path, terms.draws.path.sampled.log_q
    log_prior = path.sampled.log_prior
    if path.entropy is not None:
        known = _of_known_entropy(path.sampled, path.entropy)
        log_prior, log_q = known.log_prior, -known.entropy
    values = (terms.draws.reconstruction, log_prior, log_q)
    return LabelDraws(terms.label_log_prob, *(drawn[..., :samples] for drawn in values))


def log_weights(terms: Terms, count: int) -> Floats:
    """log p(x, z_k) - log q(z_k|x), (n, K), of each row's first draws; under a marginal those of log p(x)."""
    if terms.label_log_prob is not None:
        return label_draws(terms, count).marginal_log_weights()
    sampled = terms.draws.path.sampled
    weights: Floats = (terms.draws.reconstruction + sampled.log_prior - sampled.log_q)[:, :count]
    return weights


def _latent(terms: Terms, samples: int) -> LatentTerms[Floats]:
    """All in closed form, all in closed form given the drawn groups, or all sampled: a mix would break the equality of
    the two forms of the bound. Where H[q] is known, log q and log p are sampled and their sum is split by it."""
    if (closed := terms.rows.latent) is not None:
        return ClosedForm(closed.kl[:, None], closed.log_prior[:, None], closed.entropy[:, None])
    path = terms.draws.path
    if path.entropy is not None:
        known = _of_known_entropy(path.sampled, path.entropy)
        return KnownEntropy(known.kl[:, :samples], known.log_prior[:, :samples], known.entropy[:, :samples])
    if (given := path.conditional) is not None:
        return Conditional(given.kl[:, :samples], given.log_prior[:, :samples], given.entropy[:, :samples])
    return Sampled(path.sampled.log_prior[:, :samples], path.sampled.log_q[:, :samples])


def _of_known_entropy(sampled: Sampled[Floats], entropy: Floats) -> KnownEntropy[Floats]:
    return KnownEntropy(sampled.kl, -sampled.kl - entropy, entropy)


@dataclass(frozen=True)
class LabelDraws:
    """Sampled terms of the bound under each of C labels, (n, C, S) each, and log p(y), (C,).

    reconstruction: r_{y,s} = log p(x|z_s, y);  log_prior: log p(z_s);  log_q: log q(z_s|x, y), z_s ~ q(z|x, y).
    """

    label_log_prob: Floats
    reconstruction: Floats
    log_prior: Floats
    log_q: Floats

    @property
    def log_weights(self) -> Floats:
        """log w_{y,s} = log p(x, z_s|y) - log q(z_s|x, y), (n, C, S)."""
        return self.reconstruction + self.log_prior - self.log_q

    def posterior(self) -> Floats:
        """rho_y proportional to p(y) exp(mean over s of log w_{y,s}), what the draws say of p(y|x), (n, C)."""
        return np.exp(self._log_posterior())

    def _log_posterior(self) -> Floats:
        joint = self.label_log_prob + self.log_weights.mean(axis=2)
        log_posterior: Floats = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
        return log_posterior

    def marginal(self) -> tuple[Floats, Marginal[Floats]]:
        """(reconstruction, terms) per draw, (n, S), of the bound on log p(x) = log sum over y of p(y) p(x|y).

        With L_y = mean over s of log w_{y,s} the bound is logsumexp over y of log p(y) + L_y. It equals the mean over s
        of sum rho_y (r - k)_{y,s} - KL(rho || p(y)): the label is one more latent, whose posterior rho is enumerated,
        and rho is the bound's gradient, so that the spread over s gives its delta-method error. E[bound] <= log p(x):
        exp of the bound is sum p(y) prod_s w_{y,s}^(1/S), whose mean is at most sum p(y) E[w_y] (Jensen). Closed-form
        terms would not do: logsumexp is convex, and the noise of L_y could then raise the bound above log p(x).
        """
        log_rho = self._log_posterior()[..., None]
        log_prob = np.broadcast_to(self.label_log_prob[:, None], log_rho.shape)
        mean = partial(mean_over_labels, np.exp(log_rho[..., 0]))
        divergence = mean(log_rho - log_prob)
        return mean(self.reconstruction), Marginal(
            kl=mean(self.log_q - self.log_prior) + divergence,
            log_prior=mean(self.log_prior) + mean(log_prob),
            entropy=mean(-self.log_q) - mean(log_rho),
        )

    def marginal_log_weights(self) -> Floats:
        """log W_s = logsumexp over y of log p(y) + log w_{y,s}, (n, S): importance weights of log p(x)."""
        weights: Floats = np.logaddexp.reduce(self.label_log_prob[:, None] + self.log_weights, axis=1)
        return weights


def mean_over_labels(rho: Floats, values: Floats) -> Floats:
    """sum over y of rho_y values_y, (n, ...), from (n, C) and (n, C, ...).

    A label under which x is impossible takes no part: 0 times its infinity is 0 here.
    """
    weights = rho.reshape(*rho.shape, *[1] * (values.ndim - 2))
    weighted = np.zeros(values.shape)
    np.multiply(weights, values, out=weighted, where=weights > 0)
    mean: Floats = weighted.sum(axis=1)
    return mean


@dataclass(frozen=True)
class ImportanceWeighted:
    """The importance-weighted bound and what its weights say about q, one number a row."""

    iwae: Floats
    iwae_standard_error: Floats
    effective_sample_size: Floats
    pareto_k: Floats
    gap: Floats
    gap_standard_error: Floats


def importance_weighted(log_weights: Floats) -> ImportanceWeighted:
    """log mean w, w_k = p(x, z_k)/q(z_k|x), from sampled log weights (n, K) (Burda et al., ICLR 2016).

    A lower bound: E[iwae] <= log p(x), increasing in K. Its delta-method error sqrt(Var(w)/K)/mean(w) is NaN where
    the weights' tail is so heavy that it would understate (`pareto_k` over its limit and effective sample size below
    0.9 K; Vehtari et al., "Pareto smoothed importance sampling", JMLR 25, 2024). The gap is paired,
    iwae - mean(log w) >= 0 by Jensen's inequality, and a lower estimate of KL(q(z|x) || p(z|x)).
    """
    count = log_weights.shape[1]
    top = log_weights.max(axis=1, keepdims=True)
    weights = np.exp(log_weights - top)
    mean_weight = _mean(weights)
    iwae = top[:, 0] + np.log(mean_weight)
    relative = weights / mean_weight[:, None]
    sample_size = np.square(_sum(weights)) / _sum(np.square(weights))
    k_hat = pareto_k(log_weights)
    error = _standard_error(relative)
    error[(k_hat > pareto_k_limit(count)) & (sample_size < 0.9 * count)] = np.nan
    return ImportanceWeighted(
        iwae=iwae,
        iwae_standard_error=error,
        effective_sample_size=sample_size,
        pareto_k=k_hat,
        # Equal weights may leave a rounding error below zero.
        gap=np.maximum(iwae - _mean(log_weights), 0.0),
        gap_standard_error=_standard_error(relative - log_weights),
    )


def pareto_k_limit(count: int) -> float:
    """min(1 - 1/log10 K, 0.7): above it K draws are too few for the tail (Vehtari et al., 2024, section 3.2.4)."""
    return min(1 - 1 / math.log10(count), 0.7) if count > 1 else math.inf


def bits_per_dim(elbo_nats: Floats, event_dims: int) -> Floats:
    """-L/(D ln 2); meaningful for a pmf only."""
    return -elbo_nats / (event_dims * math.log(2))


def rank(scores: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """(quantile, typicality) of each score among ascending reference scores of n exchangeable rows.

    p_lo = (1 + #{r <= e})/(n + 1) is the quantile, p_hi likewise with >=, typicality = min(1, 2 min(p_lo, p_hi)): a
    conformal p-value, P(typicality <= a) <= a for rows like the reference ones (Vovk, Gammerman and Shafer, 2005).
    """
    n = len(reference)
    lower = (1 + np.searchsorted(reference, scores, side="right")) / (n + 1)
    upper = (1 + n - np.searchsorted(reference, scores, side="left")) / (n + 1)
    return lower, np.minimum(1.0, 2 * np.minimum(lower, upper))


@dataclass(frozen=True)
class Summary:
    """The mean over rows; `standard_error` is the spread of rows, noise within them included."""

    mean: float
    standard_error: float
    monte_carlo_standard_error: float
    n: int


def summarize(values: Floats, standard_errors: Floats) -> Summary:
    """mean, sd(rows, ddof=1)/sqrt(n) and sqrt(sum se^2)/n over n rows (1-D)."""
    n = len(values)
    if n == 1:
        return Summary(float(values[0]), math.nan, float(standard_errors[0]), 1)
    spread = float(values.std(ddof=1) / math.sqrt(n))
    return Summary(float(values.mean()), spread, float(np.sqrt(np.square(standard_errors).sum())) / n, n)


def _sum(values: Floats) -> Floats:
    total: Floats = np.ascontiguousarray(values).sum(axis=1)
    return total


def _mean(values: Floats) -> Floats:
    mean: Floats = _sum(values) / values.shape[1]
    return mean


def _standard_error(values: Floats) -> Floats:
    n, count = values.shape
    if count == 1:
        return np.full(n, np.nan)
    centered = values - _mean(values)[:, None]
    error: Floats = np.sqrt(_sum(np.square(centered)) / (count - 1) / count)
    return error
