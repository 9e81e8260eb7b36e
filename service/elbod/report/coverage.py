"""Whether standard errors are honest: how often intervals made of them hold what they are estimates of."""

import math
from dataclasses import dataclass

import numpy as np

from elbod.engine.jobs import Floats

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)

_POINTS = 20_001


@dataclass(frozen=True)
class Coverage:
    """`observed` shares of `intervals` intervals of each nominal level, of `num_samples` draws, and their errors."""

    num_samples: int
    intervals: int
    observed: tuple[float, ...]
    errors: tuple[float, ...]


def coverage(elbo: Floats, standard_error: Floats, num_samples: int) -> Coverage | None:
    """From R independent estimates of each of n rows, (n, R) both. None where nothing was drawn, so all errors are 0.

    Each estimate e_r of a row is compared with the mean of its R - 1 others, whose own noise widens the interval by
    sqrt(1 + 1/(R-1)). For normal draws (e_r - mean)/(that error) has Student's t distribution of S - 1 degrees of
    freedom; the binomial error takes all intervals as independent.
    """
    if not np.isfinite(standard_error).all() or not (standard_error > 0).any():
        return None
    n, repetitions = elbo.shape
    others = (elbo.sum(axis=1, keepdims=True) - elbo) / (repetitions - 1)
    width = standard_error * math.sqrt(1 + 1 / (repetitions - 1))
    distance = np.abs(elbo - others)
    observed = [float((distance <= student_quantile((1 + p) / 2, num_samples - 1) * width).mean()) for p in LEVELS]
    count = n * repetitions
    return Coverage(num_samples, count, tuple(observed), tuple(math.sqrt(p * (1 - p) / count) for p in LEVELS))


def student_quantile(probability: float, freedom: int) -> float:
    """Of Student's t. With t = sqrt(freedom) tan(a) its density is that of cos(a)^(freedom - 1), summed on a grid."""
    angle = np.linspace(-math.pi / 2, math.pi / 2, _POINTS)
    density = np.cos(angle) ** (freedom - 1)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(probability, cumulative / cumulative[-1], angle)))
