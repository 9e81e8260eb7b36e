"""The area under the ROC of altered copies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbod.engine.outliers import paired_auroc

# Few distinct values, so that there are ties.
scores = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=30)


@given(scores)
def test_the_area_counts_pairs_and_half_of_the_ties(pairs: list[tuple[int, int]]) -> None:
    originals, altered = np.array(pairs, float).T
    wins = (altered[:, None] > originals).mean() + 0.5 * (altered[:, None] == originals).mean()
    assert paired_auroc(originals, altered).value == pytest.approx(wins, abs=1e-12)


@given(scores)
def test_the_opposite_score_has_the_opposite_area(pairs: list[tuple[int, int]]) -> None:
    originals, altered = np.array(pairs, float).T
    one, other = paired_auroc(originals, altered), paired_auroc(-originals, -altered)
    assert one.value + other.value == pytest.approx(1, abs=1e-12)
    assert one.standard_error == pytest.approx(other.standard_error, abs=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_standard_error_is_the_spread_of_repeated_sets(correlation: float) -> None:
    """Over 400 sets of 200 pairs of normals, independent or nearly copies, within a tenth."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(400):
        originals, noise = rng.normal(size=(2, 200))
        altered = 0.5 + correlation * originals + np.sqrt(1 - correlation**2) * noise
        found.append(paired_auroc(originals, altered))
    spread = np.std([area.value for area in found], ddof=1)
    assert np.mean([area.standard_error for area in found]) == pytest.approx(spread, rel=0.1)
