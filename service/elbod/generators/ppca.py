"""`ppca`: probabilistic principal component analysis, Tipping and Bishop, J. R. Statist. Soc. B 61 (1999).

    p(z) = N(0, I),   p(x|z) = N(W z + mu, sigma^2 I),   p(x) = N(mu, W W' + sigma^2 I)
    q(z|x) = p(z|x) = N(M^-1 W'(x - mu), sigma^2 M^-1),   M = W'W + sigma^2 I

The posterior is exact, so the importance weight p(x, z)/q(z|x) equals p(x) for every z: the family is an instant
baseline and the oracle of everything else. All of it is linear algebra and computed in float64.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from elbod.generators.base import Blueprint, Generator
from elbod.generators.likelihoods import GaussianObservation
from elbod.generators.posteriors import FullNormal
from elbod.generators.priors import StandardNormal

# The noise variance never falls below this share of the mean variance, so that rank-deficient data have a density.
_MIN_NOISE_SHARE = 1e-6


@dataclass(frozen=True, kw_only=True)
class PPCASpec:
    """Number of principal components."""

    latent_dim: int


@final
class PPCA(Generator):
    family = "ppca"
    Spec = PPCASpec

    loadings: Tensor  # W, (D, d)
    location: Tensor  # mu, (D,)
    noise: Tensor  # sigma, ()

    def __init__(self, blueprint: Blueprint, spec: PPCASpec) -> None:
        super().__init__(blueprint, spec.latent_dim)
        if blueprint.likelihood != "gaussian":
            raise ValueError(f"ppca has a gaussian likelihood, not {blueprint.likelihood!r}")
        features, d = self.likelihood.event_dims, spec.latent_dim
        if not 1 <= d < features:
            raise ValueError(
                f"ppca needs 1 <= latent_dim < {features} (the event dimensions), got {d}: choose it with latent_dim"
            )
        self.register_buffer("loadings", torch.zeros(features, d, dtype=torch.float64))
        self.register_buffer("location", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("noise", torch.ones((), dtype=torch.float64))

    @classmethod
    def build(cls, blueprint: Blueprint, spec: PPCASpec) -> Self:
        return cls(blueprint, spec)

    def initialize(self, x: Tensor, label: Tensor | None = None) -> None:
        """The maximum-likelihood fit in closed form (section 3.2 of the paper), by singular value decomposition."""
        values = x.double().flatten(1)
        rows, features = values.shape
        self.location = values.mean(0)
        _, singular, directions = torch.linalg.svd(values - self.location, full_matrices=False)
        variances = torch.zeros(features, dtype=torch.float64)
        variances[: len(singular)] = singular**2 / rows
        # The mean of equal rows is rounded, so their variance alone need not be zero.
        if (values == values[0]).all() or not variances.sum() > 0:
            raise ValueError("ppca cannot be fitted to constant data")
        d = self.latent_dim
        noise_variance = variances[d:].mean().clamp(min=_MIN_NOISE_SHARE * float(variances.mean()))
        excess = (variances[:d] - noise_variance).clamp(min=0)
        loadings = torch.zeros_like(self.loadings)
        kept = min(d, len(directions))
        loadings[:, :kept] = directions[:kept].mT * excess[:kept].sqrt()
        self.loadings, self.noise = loadings, noise_variance.sqrt()

    def encode(self, x: Tensor, label: Tensor | None = None) -> FullNormal:
        return self.posterior({"mean": (x.double().flatten(1) - self.location) @ self._gain().mT})

    def posterior(self, parameters: Mapping[str, Tensor]) -> FullNormal:
        # sigma^2 M^-1 = (sigma L^-1)' (sigma L^-1) with M = L L'; its lower Cholesky factor by a second decomposition.
        covariance = self.noise**2 * torch.cholesky_inverse(self._precision_factor())
        return FullNormal(parameters["mean"], torch.linalg.cholesky(covariance))

    def decode(self, z: Tensor, label: Tensor | None = None) -> GaussianObservation:
        location = (z.double() @ self.loadings.mT + self.location).unflatten(-1, self.event_shape)
        return GaussianObservation(location, self.noise.log().expand_as(location))

    def prior(self) -> StandardNormal:
        return StandardNormal(self.latent_dim)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log N(x; mu, W W' + sigma^2 I) by the matrix inversion and determinant lemmas."""
        centered = x.double().flatten(1) - self.location
        features, d = self.loadings.shape
        factor = self._precision_factor()
        projected = torch.linalg.solve_triangular(factor, (centered @ self.loadings).mT, upper=False)
        mahalanobis = ((centered**2).sum(-1) - (projected**2).sum(0)) / self.noise**2
        log_det = 2 * (features - d) * self.noise.log() + 2 * factor.diagonal().log().sum()
        log_density: Tensor = -0.5 * (features * math.log(2 * math.pi) + log_det + mahalanobis)
        return log_density

    def _precision_factor(self) -> Tensor:
        """Cholesky factor of M = W'W + sigma^2 I."""
        identity = torch.eye(self.latent_dim, dtype=torch.float64, device=self.loadings.device)
        factor: Tensor = torch.linalg.cholesky(self.loadings.mT @ self.loadings + self.noise**2 * identity)
        return factor

    def _gain(self) -> Tensor:
        """M^-1 W', (d, D)."""
        return torch.cholesky_solve(self.loadings.mT, self._precision_factor())
