"""Which level each row of a training batch stands at: more often where the bound's terms are large.

The profile (T + 1,) holds root mean squares of the terms of levels 0 ... T: log p(x|z_0) at level 0, and the KL of the
pass from each level above. Weights follow it, but for a share that is the same of all levels.
"""

import torch
from torch import Tensor

# The share of the weights that does not depend on the profile, and the profile's memory in rows of a level.
_UNIFORM_SHARE, _REMEMBERED_ROWS = 0.1, 200


def weights_of(profile: Tensor) -> Tensor:
    """w of levels 0 ... T, which sum to 1."""
    return (1 - _UNIFORM_SHARE) * profile / profile.sum() + _UNIFORM_SHARE / len(profile)


def stratified(u: Tensor, rows: int) -> Tensor:
    """Places (u + b/n) mod 1 of rows b = 0 ... n - 1: together they cover [0, 1) evenly, whatever u is."""
    return (u + torch.arange(rows, device=u.device) / rows) % 1


def levels_at(places: Tensor, weights: Tensor) -> Tensor:
    """F^-1 of places (n,) in [0, 1), int64, where F is the cumulative sum of the weights."""
    return torch.searchsorted(weights.cumsum(0)[:-1].contiguous(), places.contiguous(), right=True)


def statistics(levels: int, level: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """Of levels 0 ... T, (T + 1,) each: how many rows have it, and the sum of their terms' squares."""
    has = (level[:, None] == torch.arange(levels + 1, device=level.device)).double()
    # `cumsum` adds rows in their order, where `index_add` adds them in any order on a GPU. No rows add up to zero.
    return has.sum(0), (has * terms[:, None] ** 2).cumsum(0)[-1:].sum(0)


def updated(profile: Tensor, rows: Tensor, squares: Tensor) -> Tensor:
    """The profile after a batch: an exponential mean of squares, that of a level forgetting with its own rows."""
    weight = -torch.expm1(-rows / _REMEMBERED_ROWS)
    return torch.lerp(profile**2, squares / rows.clamp(min=1), weight).sqrt()
