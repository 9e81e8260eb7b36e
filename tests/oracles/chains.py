"""Diffusion models whose beliefs are exact, and expectations over their noise by quadrature."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from elbod.generators.base import Blueprint, Walk
from elbod.generators.checkpoint import build
from elbod.generators.diffusion import Diffusion
from elbod.generators.evaluation import LevelNoise
from elbod.generators.noise import Keys, Stream, blocks_of, normals

# What a network says: (z (n, D), gamma (n, 1)) to (n, D, parameters), float64.
Says = Callable[[Tensor, Tensor], Tensor]


class Network(nn.Module):
    """A network that says what a function says."""

    def __init__(self, says: Says, lowest: float, highest: float) -> None:
        super().__init__()
        self._says, self._lowest, self._span = says, lowest, highest - lowest

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self._says(z, self._lowest + self._span * t[:, None])


def chain_model(
    says: Says,
    dims: int,
    num_levels: int,
    gamma: tuple[float, float],
    likelihood: str = "gaussian",
    variance: str = "belief",
    levels: int | None = None,
) -> Diffusion:
    """A diffusion of data in standardized units, in float64 throughout."""
    spec = {
        "num_levels": num_levels,
        "gamma_min": gamma[0],
        "gamma_max": gamma[1],
        "width": 1,
        "blocks": 1,
        "reverse_variance": variance,
    }
    model = build(Blueprint(family="diffusion", spec=spec, likelihood=likelihood, event_shape=(dims,), levels=levels))
    assert isinstance(model, Diffusion)
    if likelihood != "gaussian":
        half = torch.full((dims,), ((levels or 2) - 1) / 2, dtype=torch.float64)
        model.shift, model.scale = half, half.clone()
    model.network = Network(says, *gamma)
    return model.eval().requires_grad_(False)


def constant(values: Tensor) -> Says:
    """The same outputs (D, parameters) for every z."""
    return lambda z, gamma: values.double().expand(len(z), *values.shape)


def correlated(covariance: Tensor) -> Says:
    """Beliefs whose posteriors have the exact moments of f ~ N(0, covariance) given z.

    The posterior of all elements has precision C^-1 + SNR I; the belief N(mu_j, r_j^2) is what is left of the
    marginal N(m_j, v_j) without the element's own evidence.
    """

    def says(z: Tensor, gamma: Tensor) -> Tensor:
        snr = torch.exp(-gamma)
        precision = torch.linalg.inv(covariance) + snr[:, :, None] * torch.eye(len(covariance), dtype=torch.float64)
        posterior = torch.linalg.inv(precision)
        over = z.double() * (snr / torch.sigmoid(-gamma).sqrt())
        m, v = (posterior @ over[:, :, None])[:, :, 0], posterior.diagonal(dim1=1, dim2=2)
        r2 = 1 / (1 / v - snr)
        return torch.stack([r2 * (m / v - over), 0.5 * r2.log()], -1)

    return says


def at_noise(model: Diffusion, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """r - sum of all KL of rows x (n, D) and KL_i of levels 1 ... T, (n, T), at z_i = a_i f + s_i noise.

    The noise is float64: no rounding of z hides an error.
    """
    n, levels = len(x), torch.arange(model.levels + 1).repeat(len(x))
    q = model.encode(x.repeat_interleave(model.levels + 1, 0))
    normal = model.marginal(q, levels)
    z = normal.mean + normal.stddev * noise.repeat_interleave(model.levels + 1, 0)
    above = levels > 0
    steps = Walk(z[above], levels[above], levels[above] - 1)
    kl = model.level_terms(steps, model.posterior({"f": q.f[above]})).kl.reshape(n, -1)
    r = model.observe(Walk(z[~above], levels[~above])).log_prob(x).sum(-1)
    return r - model.first_kl(model.encode(x)) - kl.sum(1), kl


def expected_bound(model: Diffusion, x: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """L_T of each row x (n, D) and its E[KL_i], (n, T), by a rule for the noise: points (k, D) stand for N(0, I)."""
    n, k = len(x), len(points)
    bound, kl = at_noise(model, x.repeat_interleave(k, 0), points.repeat(n, 1))
    return bound.reshape(n, k) @ weights, weights @ kl.reshape(n, k, -1)


def hermite(dims: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite for N(0, 1), the same node for all elements: exact for sums of functions of one element each."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(points)[:, None].expand(-1, dims), torch.from_numpy(weights / weights.sum())


def quadratic(dims: int) -> tuple[Tensor, Tensor]:
    """2 D points of N(0, I) that are exact for polynomials of degree 3."""
    axes = dims**0.5 * torch.eye(dims, dtype=torch.float64)
    return torch.cat([axes, -axes]), torch.full((2 * dims,), 0.5 / dims, dtype=torch.float64)


def level_noise(seed: int, rows: int, dims: int, stream: Stream = Stream.POSTERIOR) -> LevelNoise:
    """The noise of rows 0 ... n-1 by the layout of the contract."""
    keys = Keys.of(seed, np.arange(rows))
    return lambda level: torch.from_numpy(normals(keys, stream, dims, level * blocks_of(dims)))


def fixed(model: Diffusion) -> Diffusion:
    """The same model with v = 0 in p(z_b|z_l)."""
    assert isinstance(model.network, Network)
    spec = {**model.blueprint.spec, "reverse_variance": "fixed"}
    other = build(replace(model.blueprint, spec=spec))
    assert isinstance(other, Diffusion)
    other.shift, other.scale, other.network = model.shift, model.scale, model.network
    return other.eval().requires_grad_(False)
