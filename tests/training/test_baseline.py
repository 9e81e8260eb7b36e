import numpy as np
import pytest
from scipy.stats import norm

from elbod.generators.likelihoods import make_likelihood
from elbod.training import datasets, splits
from elbod.training.baseline import independent_elements


def test_levels_have_one_added_count():
    likelihood = make_likelihood("discretized_logistic", (2,), 3)
    train = np.array([[0, 2], [0, 2], [1, 2]], np.uint8)

    scores = independent_elements(train, np.array([[0, 0], [2, 2]], np.uint8), likelihood)

    assert scores == pytest.approx([np.log(3 / 6 * 1 / 6), np.log(1 / 6 * 4 / 6)])


def test_bits_may_be_fitted_to_grey_values():
    likelihood = make_likelihood("bernoulli", (1,), 2)

    scores = independent_elements(np.array([[255], [51]], np.uint8), np.array([[1], [0]]), likelihood, top=255)

    assert scores == pytest.approx([np.log(2.2 / 4), np.log(1.8 / 4)])


def test_densities_are_normal():
    train = np.random.default_rng(0).normal([1, -2], [0.5, 3], (500, 2))

    scores = independent_elements(train, train[:5], make_likelihood("gaussian", (2,), None))

    assert scores == pytest.approx(norm(train.mean(0), train.std(0)).logpdf(train[:5]).sum(1))


def test_the_digits_baseline_is_2_42_bits_per_dimension():
    parts = splits.split(datasets.load("digits"))

    scores = independent_elements(parts.train, parts.test, make_likelihood("discretized_logistic", (8, 8), 17))

    assert -scores.mean() / 64 / np.log(2) == pytest.approx(2.42, abs=0.01)
