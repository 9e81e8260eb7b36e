"""Annealed importance sampling in both directions, in float64, many chains at once.

    forward: log w = sum over t of (beta_t - beta_{t-1}) log p(x|z_{t-1}),  z_0 ~ p(z),   E[w] = p(x)
    reverse: the same path backwards from an exact z ~ p(z|x),             E[1/w] = 1/p(x)

along p(z) p(x|z)^beta (Neal, "Annealed importance sampling", 2001). So E[log w] is below log p(x) forwards and above it
backwards (Grosse, Ghahramani and Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015);
on data simulated from the model, the z that made x is an exact draw from its posterior.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]


def forward(log_prior: LogDensity, log_likelihood: LogDensity, z: Tensor, betas: Tensor, seed: int) -> Tensor:
    """log w (n,) of chains that begin at z ~ p(z), (n, d); betas ascend from 0 to 1."""
    return _anneal(log_prior, log_likelihood, z, betas, seed)


def reverse(log_prior: LogDensity, log_likelihood: LogDensity, z: Tensor, betas: Tensor, seed: int) -> Tensor:
    """log w (n,) of chains that begin at z ~ p(z|x) and are annealed backwards."""
    return -_anneal(log_prior, log_likelihood, z, betas.flip(0), seed)


def _anneal(log_prior: LogDensity, log_likelihood: LogDensity, z: Tensor, betas: Tensor, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    log_weight = torch.zeros(len(z), dtype=torch.float64)
    for before, now in itertools.pairwise(betas):
        log_weight = log_weight + (now - before) * log_likelihood(z)
        z = _hamiltonian(lambda z, now=now: log_prior(z) + now * log_likelihood(z), z, random)
    return log_weight


def _hamiltonian(log_density: LogDensity, z: Tensor, random: torch.Generator) -> Tensor:
    """One Metropolis-corrected trajectory of five leapfrog steps.

    Step sizes are drawn anew, and do not look at the state: narrow and wide densities both find one that suits them.
    """
    step = torch.exp(math.log(0.03) + math.log(20) * torch.rand(len(z), 1, generator=random, dtype=torch.float64))
    start = torch.randn(z.shape, generator=random, dtype=torch.float64)
    before, gradient = _with_gradient(log_density, z)
    momentum, proposal, after = start, z, before
    for _ in range(5):
        momentum = momentum + 0.5 * step * gradient
        proposal = proposal + step * momentum
        after, gradient = _with_gradient(log_density, proposal)
        momentum = momentum + 0.5 * step * gradient
    log_ratio = after - before + 0.5 * (start**2 - momentum**2).sum(1)
    accepted = torch.rand(len(z), generator=random, dtype=torch.float64).log() < log_ratio
    return torch.where(accepted[:, None], proposal, z)


def _with_gradient(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient
