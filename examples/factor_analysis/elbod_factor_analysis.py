"""`factor_analysis`: Gaussian factors with a noise of its own for every element, fitted by the EM algorithm.

    p(z) = N(0, I),   p(x|z) = N(W z + mu, Psi),   Psi = diag(psi),   p(x) = N(mu, W W' + Psi)
    q(z|x) = p(z|x) = N(G W' Psi^-1 (x - mu), G),   G = (I + W' Psi^-1 W)^-1

Rubin and Thayer, "EM algorithms for ML factor analysis", Psychometrika 47 (1982). Unlike `ppca`, whose noise is the
same everywhere, it has no units of its own: columns of a table may be metres, years and shares. The posterior is
exact, so the importance weight p(x, z)/q(z|x) equals p(x) for every z. All of it is computed in float64.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from elbod.generators.base import Blueprint, Generator
from elbod.generators.likelihoods import GaussianObservation
from elbod.generators.posteriors import FullNormal, Posterior
from elbod.generators.priors import StandardNormal

# No element's noise variance falls below this share of its variance: without a floor the density is unbounded.
_MIN_NOISE_SHARE = 1e-6

# EM has converged when the mean log-likelihood of a row rises by less, nats.
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class FactorAnalysisSpec:
    """Number of factors, and of EM iterations at most."""

    latent_dim: int
    iterations: int = 2000

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be positive, got {self.iterations}")


@final
class FactorAnalysis(Generator):
    family = "factor_analysis"
    Spec = FactorAnalysisSpec

    loadings: Tensor  # W, (D, d)
    location: Tensor  # mu, (D,)
    noise: Tensor  # sqrt(psi), (D,)

    def __init__(self, blueprint: Blueprint, spec: FactorAnalysisSpec) -> None:
        super().__init__(blueprint, spec.latent_dim)
        if blueprint.likelihood != "gaussian":
            raise ValueError(f"factor_analysis has a gaussian likelihood, not {blueprint.likelihood!r}")
        features, d = self.likelihood.event_dims, spec.latent_dim
        if not 1 <= d < features:
            raise ValueError(
                f"factor_analysis needs 1 <= latent_dim < {features} (the event dimensions), got {d}: "
                "choose it with latent_dim"
            )
        self._iterations = spec.iterations
        self.register_buffer("loadings", torch.zeros(features, d, dtype=torch.float64))
        self.register_buffer("location", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("noise", torch.ones(features, dtype=torch.float64))

    @classmethod
    def build(cls, blueprint: Blueprint, spec: FactorAnalysisSpec) -> Self:
        return cls(blueprint, spec)

    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        """The whole fit: EM on the correlations of the rows from their principal components."""
        values = x.double().flatten(1)
        # The mean of equal values is rounded, so their variance alone need not be zero.
        varies = (values != values[0]).any(0)
        if not varies.any():
            raise ValueError("factor_analysis cannot be fitted to constant data")
        self.location = torch.where(varies, values.mean(0), values[0])
        scale = (values - self.location).square().mean(0).sqrt()
        # A constant element gets a small noise in the units of the others.
        scale = torch.where(varies, scale, scale[varies].mean())
        standardized = (values - self.location) / scale
        loadings, psi = _fit(standardized.mT @ standardized / len(values), self.latent_dim, self._iterations)
        self.loadings, self.noise = scale[:, None] * loadings, scale * psi.sqrt()

    def encode(self, x: Tensor, label: Tensor | None = None) -> FullNormal:
        weighted = (x.double().flatten(1) - self.location) / self.noise
        return self.posterior({"mean": weighted @ self._whitened() @ torch.cholesky_inverse(self._precision_factor())})

    def posterior(self, parameters: Mapping[str, Tensor]) -> FullNormal:
        covariance = torch.cholesky_inverse(self._precision_factor())
        return FullNormal(parameters["mean"], torch.linalg.cholesky(covariance))

    def decode(self, z: Tensor, label: Tensor | None = None) -> GaussianObservation:
        location = (z.double() @ self.loadings.mT + self.location).unflatten(-1, self.event_shape)
        return GaussianObservation(location, self.noise.log().reshape(self.event_shape).expand_as(location))

    def prior(self) -> StandardNormal:
        return StandardNormal(self.latent_dim)

    def expected_log_likelihood(self, x: Tensor, q: Posterior) -> Tensor:
        """log p(x_i | E_q[z]) - (W Cov_q[z] W')_ii / (2 psi_i) of every element: the bound needs no draws."""
        assert isinstance(q, FullNormal)
        spread = (self._whitened() @ q.scale_tril).square().sum(-1)
        return self.decode(q.mean).log_prob(x) - 0.5 * spread.reshape(self.event_shape)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log N(x; mu, W W' + Psi) by the matrix inversion and determinant lemmas."""
        weighted = (x.double().flatten(1) - self.location) / self.noise
        factor = self._precision_factor()
        projected = torch.linalg.solve_triangular(factor, (weighted @ self._whitened()).mT, upper=False)
        mahalanobis = weighted.square().sum(-1) - projected.square().sum(0)
        log_det = 2 * self.noise.log().sum() + 2 * factor.diagonal().log().sum()
        log_density: Tensor = -0.5 * (len(self.noise) * math.log(2 * math.pi) + log_det + mahalanobis)
        return log_density

    def _whitened(self) -> Tensor:
        """Psi^-1/2 W, (D, d)."""
        return self.loadings / self.noise[:, None]

    def _precision_factor(self) -> Tensor:
        """Cholesky factor of G^-1 = I + W' Psi^-1 W."""
        return _precision_factor(self._whitened())


def _precision_factor(whitened: Tensor) -> Tensor:
    identity = torch.eye(whitened.shape[1], dtype=whitened.dtype, device=whitened.device)
    factor: Tensor = torch.linalg.cholesky(identity + whitened.mT @ whitened)
    return factor


def _fit(S: Tensor, d: int, iterations: int) -> tuple[Tensor, Tensor]:
    """W (D, d) and psi (D,) of the largest likelihood under the covariance S of standardized rows."""
    variances, directions = torch.linalg.eigh(S)
    W = directions[:, -d:] * variances[-d:].clamp(min=0).sqrt()
    psi = (S.diagonal() - W.square().sum(1)).clamp(min=0.01)
    before = -math.inf
    for _ in range(iterations):
        # E step: z given x has the mean B (x - mu) and the covariance G.
        whitened = W / psi.sqrt()[:, None]
        factor = _precision_factor(whitened)
        G = torch.cholesky_inverse(factor)
        B = G @ (W / psi[:, None]).mT
        BS = B @ S
        trace = (S.diagonal() / psi).sum() - ((W / psi[:, None]).mT * BS).sum()
        log_likelihood = float(-0.5 * (psi.log().sum() + 2 * factor.diagonal().log().sum() + trace))
        if log_likelihood - before < _TOLERANCE:
            break
        before = log_likelihood
        # M step: regress x on z.
        W = torch.linalg.solve(G + BS @ B.mT, BS).mT
        psi = (S.diagonal() - (W * BS.mT).sum(1)).clamp(min=_MIN_NOISE_SHARE)
    # Factors may be rotated at will. Of all rotations, the one whose posterior is uncorrelated, the strongest first.
    _, rotation = torch.linalg.eigh((W / psi[:, None]).mT @ W)
    W = W @ rotation.flip(1)
    return W * torch.where(W.sum(0) < 0, -1.0, 1.0), psi
