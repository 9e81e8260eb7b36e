"""The model that any generator must beat: every element on its own, fitted to the training rows.

    log p(x) = sum over i of log p_i(x_i)

p_i is a categorical distribution with one added count per level for integers, a normal distribution for densities.
"""

import numpy as np

from elbod.generators.bounds import Floats
from elbod.generators.likelihoods import Likelihood
from elbod.training.datasets import Array

# A standard deviation below this share of the largest is taken for it: a constant element has no density.
_MIN_SHARE = 1e-6


def independent_elements(train: Array, test: Array, likelihood: Likelihood, top: float = 1.0) -> Floats:
    """log p(x) of the test rows, nats, (n,). Of binary data, `train` / `top` may be probabilities of a one."""
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    if likelihood.measure == "density":
        return _normal(train.astype(np.float64), test.astype(np.float64))
    if likelihood.name == "bernoulli":
        return _bernoulli(train.sum(0, dtype=np.float64) / top, len(train), test)
    return _categorical(train.astype(np.int64), test.astype(np.int64), likelihood.levels or 2)


def _bernoulli(expected_ones: Floats, rows: int, test: Array) -> Floats:
    ones = (expected_ones + 1) / (rows + 2)
    log_density: Floats = np.where(test == 1, np.log(ones), np.log1p(-ones)).sum(1)
    return log_density


def _categorical(train: Array, test: Array, levels: int) -> Floats:
    counts = np.stack([(train == level).sum(0) for level in range(levels)])
    log_probabilities = np.log((counts + 1) / (len(train) + levels))
    log_density: Floats = np.take_along_axis(log_probabilities, test, axis=0).sum(1)
    return log_density


def _normal(train: Floats, test: Floats) -> Floats:
    mean, stddev = train.mean(0), train.std(0)
    stddev = np.maximum(stddev, _MIN_SHARE * stddev.max() or 1.0)
    log_density: Floats = (-0.5 * ((test - mean) / stddev) ** 2 - np.log(stddev) - 0.5 * np.log(2 * np.pi)).sum(1)
    return log_density
