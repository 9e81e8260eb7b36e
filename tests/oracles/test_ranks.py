"""Oracle 12: quantile and typicality are conformal p-values."""

import numpy as np
import pytest

from elbod.generators.bounds import rank


@pytest.mark.parametrize("a", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("ties", [False, True])
def test_typicality_of_exchangeable_rows_is_at_most_a_with_probability_a(a: float, ties: bool) -> None:
    """P(typicality <= a) <= a + three binomial standard deviations, over fresh references and rows, ties included."""
    rng = np.random.default_rng(12)
    trials = 4000
    hits = 0
    for _ in range(trials):
        scores = rng.standard_t(3, 100)
        if ties:
            scores = np.round(scores)
        _, typicality = rank(scores[:1], np.sort(scores[1:]))
        hits += int(typicality[0] <= a)
    assert hits / trials <= a + 3 * (a * (1 - a) / trials) ** 0.5


def test_ranks_are_counted_by_their_definition() -> None:
    reference = np.array([-3.0, -1.0, -1.0, 2.0])
    quantile, typicality = rank(np.array([-4.0, -1.0, 0.0, 9.0]), reference)
    assert quantile.tolist() == [1 / 5, 4 / 5, 4 / 5, 5 / 5]
    assert typicality.tolist() == [2 / 5, 1.0, 2 * 2 / 5, 2 / 5]


def test_a_low_and_a_high_score_are_both_atypical() -> None:
    reference = np.sort(np.random.default_rng(0).normal(size=999))
    quantile, typicality = rank(np.array([-10.0, 0.0, 10.0]), reference)
    assert typicality[0] == typicality[2] == 2 / 1000
    assert typicality[1] > 0.9
    assert quantile[0] < quantile[1] < quantile[2]
