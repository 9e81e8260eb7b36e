"""The shape of the right tail of importance weights: Pareto k-hat.

Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", JMLR 25 (2024), with the generalized
Pareto fit of Zhang and Stephens, Technometrics 51 (2009). A weight distribution with tail index k has 1/k finite
moments: above 0.5 the weights' variance is infinite, above 0.7 estimates are unreliable at any feasible K. A low value
does not prove that no mode was missed.
"""

import math
import sys

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_DRAWS = 25
# A tail of one to four distinct exceedances is too heavy to be fitted: the largest number that JSON can hold.
HEAVIEST = sys.float_info.max
_MIN_RANGE = 1e-9


def pareto_k(log_weights: Floats) -> Floats:
    """k-hat of each row of (n, K) log weights; NaN below K = 25 or where the log weights are equal (range < 1e-9).

    HEAVIEST where so few draws carry the tail that it has no fit.
    """
    rows, count = log_weights.shape
    out = np.full(rows, np.nan)
    if count < MIN_DRAWS:
        return out
    tail_size = math.ceil(min(0.2 * count, 3 * math.sqrt(count)))
    for row, values in enumerate(log_weights):
        # The largest weights are the tail, whatever their sign in the log.
        top = np.sort(np.partition(values, count - tail_size - 1)[count - tail_size - 1 :])
        if values.max() - values.min() < _MIN_RANGE:
            continue
        shifted = np.exp(top - top[-1])
        exceedances = shifted[1:] - shifted[0]
        # Ties at the cut carry no shape; a tail that is one point has none at all.
        exceedances = exceedances[exceedances > 0]
        if len(exceedances) >= 5:
            out[row] = _generalized_pareto_shape(exceedances)
        elif len(exceedances):
            out[row] = HEAVIEST
    return out


def _generalized_pareto_shape(exceedances: Floats) -> float:
    """k of a generalized Pareto distribution by Zhang and Stephens' quadrature over theta = -k/sigma.

    `exceedances` are positive and ascending. A weak prior, worth ten draws at k = 1/2, steadies short tails (Vehtari
    et al., appendix C).
    """
    n = len(exceedances)
    points = 30 + int(math.sqrt(n))
    quartile = exceedances[int(n / 4 + 0.5) - 1]
    grid = 1 / exceedances[-1] + (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (3 * quartile)
    shapes = np.log1p(-grid[:, None] * exceedances).mean(axis=1)
    # A theta of zero would be the exponential limit; the grid never holds it exactly but for rounding.
    with np.errstate(divide="ignore", invalid="ignore"):
        profile = n * (np.log(-grid / shapes) - shapes - 1)
    profile[~np.isfinite(profile)] = -np.inf
    posterior = np.exp(profile - profile.max())
    theta = float((grid * posterior).sum() / posterior.sum())
    shape = float(np.log1p(-theta * exceedances).mean())
    return (n * shape + 10 * 0.5) / (n + 10)
