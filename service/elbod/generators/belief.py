"""Bayes' rule for one element: what a belief pi(x_j) and its own noisy value z_j = a f_j + s eps say of x_j.

    post(k) ~ pi(k) exp(-(z - a f_k)^2 / 2 s^2),    m = E_post[f],    v = Var_post[f]

Everything is float64. f = (x - shift) / scale.
"""

import torch
from torch import Tensor

from elbod.generators.likelihoods import (
    BernoulliObservation,
    CategoricalObservation,
    ContinuousBernoulli,
    GaussianObservation,
    Likelihood,
    Observation,
)

# Of a byte: the sum over levels is taken of every element at every pass.
MAX_LEVELS = 256
# Elements times levels that a CPU works on together: large temporaries cost several times as much as the arithmetic.
_BLOCK = 2**18


def check_closed(likelihood: Likelihood) -> None:
    """Raises ValueError for a likelihood whose posterior has no closed form here."""
    if isinstance(likelihood, ContinuousBernoulli):
        raise ValueError(
            "the posterior of a continuous_bernoulli given a noisy value has no closed form: use gaussian, or levels"
        )
    if likelihood.levels is not None and likelihood.levels > MAX_LEVELS:
        raise ValueError(
            f"a diffusion sums over the levels of every element at every pass, so it has at most {MAX_LEVELS} levels, "
            f"not {likelihood.levels}: rescale the data, or use gaussian"
        )


def row_blocks(rows: int, cells: int, device: torch.device) -> list[slice]:
    """Rows whose `cells` numbers each are worked on together; on a GPU all of them."""
    size = max(1, rows if device.type == "cuda" else _BLOCK // cells)
    return [slice(start, start + size) for start in range(0, max(1, rows), size)]


def posterior(
    belief: Observation, z: Tensor, signal: Tensor, variance: Tensor, units: tuple[Tensor, Tensor]
) -> Observation:
    """post as a distribution of x: belief and z (n, *event_shape), a and s^2 (n, 1, ...), units (shift, scale)."""
    shift, scale = units
    if isinstance(belief, BernoulliObservation):
        # f is -1 or 1.
        return BernoulliObservation(belief.logits + 2 * signal * z / variance)
    if isinstance(belief, GaussianObservation):
        # 1/v = 1/r^2 + SNR and m = v (mu/r^2 + SNR z/a) for a belief N(mu, r^2) of f.
        precision = torch.exp(-2 * (belief.log_scale - scale.log()))
        v = 1 / (precision + signal**2 / variance)
        m = v * (precision * (belief.location - shift) / scale + signal * z / variance)
        return GaussianObservation(shift + scale * m, 0.5 * v.log() + scale.log())
    # Bayes' rule does not ask whether levels sum to one.
    log_levels = belief.logits if isinstance(belief, CategoricalObservation) else belief.log_levels()
    f = _values(log_levels.shape[-1], shift, scale)
    # -(z - a f)^2/2s^2 but for what is the same of all levels.
    evidence = (signal * z / variance).unsqueeze(-1) * f - (0.5 * signal**2 / variance).unsqueeze(-1) * f**2
    return CategoricalObservation(log_levels + evidence)


def moments(post: Observation, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """m and v of f, (n, *event_shape) each."""
    if isinstance(post, BernoulliObservation):
        return torch.tanh(post.logits / 2), 4 * torch.sigmoid(post.logits) * torch.sigmoid(-post.logits)
    if isinstance(post, GaussianObservation):
        return (post.location - shift) / scale, torch.exp(2 * (post.log_scale - scale.log()))
    assert isinstance(post, CategoricalObservation)
    # Three times as fast as softmax over a few levels. Powers that underflow take ten times as long.
    weights = (post.logits - post.logits.amax(-1, keepdim=True)).clamp(min=-700).exp()
    total = weights.sum(-1)
    f = _values(weights.shape[-1], shift, scale)
    m = (weights * f).sum(-1) / total
    # E[f^2] - m^2 would cancel.
    return m, (weights * (f - m.unsqueeze(-1)) ** 2).sum(-1) / total


def _values(levels: int, shift: Tensor, scale: Tensor) -> Tensor:
    """f of every level, (*event_shape, levels)."""
    k = torch.arange(levels, dtype=torch.float64, device=shift.device)
    return (k - shift.unsqueeze(-1)) / scale.unsqueeze(-1)
