"""The published protocol, against the real files of the Debian package dataset-fashion-mnist."""

import numpy as np
import pytest

from elbod.generators.likelihoods import make_likelihood
from elbod.training import datasets, splits
from elbod.training.baseline import independent_elements
from elbod.training.datasets import FASHION_MNIST, Dataset
from elbod.training.errors import InvalidDataset


@pytest.fixture(scope="module")
def fashion() -> Dataset:
    if not FASHION_MNIST.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    return datasets.load("fashion-mnist")


@pytest.fixture(scope="module")
def parts(fashion) -> splits.Split:
    return splits.fashion_split(fashion, binary=True)


def test_the_fixed_test_bits_are_the_published_ones(parts):
    assert parts.test.shape == (10_000, 28, 28)  # their sha256 was checked on the way
    assert parts.test.mean() == pytest.approx(0.286816, abs=5e-7)


def test_independent_pixels_score_the_published_figure(parts):
    scores = independent_elements(parts.train, parts.test, make_likelihood("bernoulli", (28, 28), 2), top=255)

    assert scores.mean() == pytest.approx(-385.02, abs=0.005)


def test_validation_rows_are_halved_for_calibration(parts):
    sizes = parts.sizes

    assert sizes["train"] == 50_000
    assert sizes["validation"] + sizes["calibration"] == 10_000
    assert abs(sizes["validation"] - sizes["calibration"]) < 300


def test_8_bit_parts_are_the_pixels_of_the_same_images(fashion, parts):
    grey = splits.fashion_split(fashion, binary=False)

    assert grey.sizes == parts.sizes
    np.testing.assert_array_equal(grey.test, fashion.x[60_000:])
    # Bits come from the pixels: where those are zero, so is every bit.
    assert not parts.validation[grey.validation == 0].any()
    assert parts.validation[grey.validation == 255].all()


def test_independent_8_bit_pixels_take_the_published_number_of_bits(fashion):
    grey = splits.fashion_split(fashion, binary=False)
    likelihood = make_likelihood("discretized_logistic_mixture", (28, 28), 256)
    bits = -independent_elements(grey.train, grey.test, likelihood) / (784 * np.log(2))

    assert bits.mean() == pytest.approx(4.588, abs=0.005)


def test_images_in_another_order_are_refused(fashion):
    with pytest.raises(InvalidDataset, match="not the Fashion-MNIST test images in file order"):
        splits.fashion_test_bits(fashion.x[:59_999:-1])


def test_other_shapes_are_refused():
    with pytest.raises(InvalidDataset, match="Fashion-MNIST has shape"):
        splits.fashion_split(Dataset("mine", np.zeros((3, 28, 28)), None, ""), binary=True)
