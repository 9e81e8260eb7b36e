import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbod.training import datasets, splits
from elbod.training.datasets import Dataset
from elbod.training.errors import InvalidDataset

rows_of_bytes = st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=30).map(
    lambda rows: np.array(rows, np.uint8)
)


@given(rows_of_bytes, st.randoms())
def test_a_row_keeps_its_place_in_any_order_and_company(rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)

    assert np.array_equal(splits.positions(rows)[order], splits.positions(rows[order]))
    assert splits.positions(rows[:1])[0] == splits.positions(rows)[0]


@given(rows_of_bytes, st.sampled_from([np.int64, np.float32, np.float64, ">i4"]))
def test_a_row_keeps_its_place_in_any_dtype(rows, dtype):
    assert np.array_equal(splits.positions(rows), splits.positions(rows.astype(dtype)))


def test_negative_zero_is_zero():
    assert splits.positions(np.array([[-0.0]])) == splits.positions(np.array([[0.0]]))


def test_places_are_uniform():
    place = splits.positions(np.arange(20_000)[:, None])

    assert np.histogram(place, bins=10, range=(0, 1))[0] == pytest.approx(2000, abs=5 * np.sqrt(1800))


@given(rows_of_bytes)
def test_equal_rows_never_end_up_in_two_parts(rows):
    many = np.concatenate([rows, np.arange(1200, dtype=np.uint8).reshape(400, 3), rows])

    found = splits.split(Dataset("mine", many, None, ""))

    parts = [{row.tobytes() for row in getattr(found, name)} for name in found.sizes]
    assert sum(found.sizes.values()) == len(many)
    assert len(set.union(*parts)) == sum(len(part) for part in parts)


def test_the_digits_are_split_about_65_7_8_20():
    sizes = splits.split(datasets.load("digits")).sizes

    assert sizes == {"train": 1185, "validation": 112, "calibration": 150, "test": 350}


def test_too_few_rows_are_refused():
    with pytest.raises(InvalidDataset, match=r"3 rows leave fewer than 2 for .*: more rows are needed"):
        splits.split(Dataset("mine", np.eye(3), None, ""))


@pytest.mark.parametrize("distinct", [1, 3])
def test_rows_that_repeat_are_counted_once(distinct):
    x = np.arange(400)[:, None] % distinct * np.ones(3)

    with pytest.raises(InvalidDataset, match=rf"400 rows, {distinct} of them distinct, .*: more distinct rows"):
        splits.split(Dataset("mine", x, None, ""))


def test_threshold_makes_bits_before_it_splits():
    x = np.random.default_rng(0).random((400, 6))

    found = splits.split(Dataset("mine", x, None, ""), "threshold")

    parts = [{row.tobytes() for row in getattr(found, name)} for name in found.sizes]
    assert set(np.unique(found.train)) == {0, 1}
    assert len(set.union(*parts)) == sum(len(part) for part in parts)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_stochastic_bits_are_fixed_for_held_out_rows_and_left_open_for_training(dtype):
    x = np.random.default_rng(0).integers(0, 256, (400, 50))
    x = x.astype(np.uint8) if dtype is np.uint8 else (x / 255).astype(np.float32)

    first, second = (splits.split(Dataset("mine", x, None, ""), "stochastic") for _ in range(2))

    assert first.train.dtype == dtype
    assert set(np.unique(first.test)) == {0, 1}
    assert np.array_equal(first.test, second.test)
    assert first.test.mean() == pytest.approx(0.5, abs=0.03)


def test_values_that_are_no_intensities_are_refused():
    with pytest.raises(InvalidDataset, match=r"floats in \[0, 1\] or integers in 0 \.\.\. 255"):
        splits.split(Dataset("mine", np.full((400, 2), 1.5), None, ""), "stochastic")
