"""Sampled levels: which levels a draw visits in place of all T, and how each counts.

    i_b = F^-1((u + b)/B),  b = 0 ... B-1,     n_i = how many i_b are i,  E[n_i] = B w_i
    k = KL_T + sum over i of n_i/(B w_i) KL_i

F is the cumulative distribution of weights w over the levels 1 ... T, and u is uniform, one a draw: E[k] is KL_T plus
the sum of all KL_i, for every row by itself and whatever w and B. A draw with all its strata is one block: its levels
share u, so errors come from the spread over draws alone.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# The share of the weights that does not depend on the profile: no level is ever left out.
UNIFORM_SHARE = 0.05


def level_weights(profile: Floats) -> Floats:
    """w (T,) of levels 1 ... T from the root mean squares of their KL: 95 % proportional, 5 % uniform."""
    total = profile.sum()
    proportional = profile / total if total > 0 else np.full(len(profile), 1 / len(profile))
    mixed: Floats = (1 - UNIFORM_SHARE) * proportional + UNIFORM_SHARE / len(profile)
    return mixed


def visited(u: Floats, weights: Floats, strata: int) -> Counts:
    """i_b (n, B), levels 1 ... T in ascending order, for u (n,) in (0, 1) and B strata."""
    bounds = np.cumsum(weights)
    bounds *= strata / bounds[-1]
    places = u[:, None] + np.arange(strata)
    # The last bound, which rounding may leave below the last place, belongs to level T.
    return np.minimum(np.searchsorted(bounds, places, side="right") + 1, len(weights))
