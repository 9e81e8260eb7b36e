import gzip
import struct

import numpy as np
import pytest

from elbod.generators.likelihoods import make_likelihood
from elbod.training import datasets
from elbod.training.datasets import Dataset
from elbod.training.errors import InvalidDataset


def dataset(x, y=None) -> Dataset:
    return Dataset("mine", np.asarray(x), y, "as given")


def write_idx(path, array) -> None:
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_the_digits_have_17_levels():
    digits = datasets.load("digits")

    assert digits.x.shape == (1797, 8, 8)
    assert (digits.x.min(), digits.x.max()) == (0, 16)
    assert digits.y is not None


def test_a_folder_of_idx_files_is_read_training_file_first(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.full((3, 2, 2), 1))
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", np.full((2, 2, 2), 2))
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([1, 2, 3]))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.array([4, 5]))

    found = datasets.load(str(tmp_path))

    assert found.x[:, 0, 0].tolist() == [1, 1, 1, 2, 2]
    assert found.y.tolist() == [1, 2, 3, 4, 5]


def test_a_folder_without_idx_files_is_refused(tmp_path):
    with pytest.raises(InvalidDataset, match="no IDX file train-images"):
        datasets.load(str(tmp_path))


def test_missing_fashion_mnist_names_the_package(tmp_path):
    with pytest.raises(InvalidDataset, match="apt install dataset-fashion-mnist"):
        datasets.load_fashion_mnist(tmp_path / "absent")


def test_npy_and_npz_files_are_read(tmp_path):
    x = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", x=x, y=np.arange(3))

    assert np.array_equal(datasets.load(str(tmp_path / "a.npy")).x, x)
    assert datasets.load(str(tmp_path / "b.npz")).y.tolist() == [0, 1, 2]


def test_an_object_array_is_refused_since_it_is_a_pickle(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))

    with pytest.raises(InvalidDataset, match=r"objects\.npz is no array of numbers: .*allow_pickle=False"):
        datasets.load(str(path))


@pytest.mark.parametrize("name", ["text.npy", "text.npz"])
def test_a_file_that_is_no_array_is_refused(tmp_path, name):
    (tmp_path / name).write_text("x,y\n1,2\n")

    with pytest.raises(InvalidDataset, match=name):
        datasets.load(str(tmp_path / name))


def test_an_npz_without_x_names_what_it_has(tmp_path):
    np.savez(tmp_path / "b.npz", data=np.zeros((2, 2)))

    with pytest.raises(InvalidDataset, match="no array named x: it has data"):
        datasets.load(str(tmp_path / "b.npz"))


def test_a_path_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(InvalidDataset, match=r"neither a folder of IDX files nor an \.npy or \.npz"):
        datasets.load(str(tmp_path / "table.xlsx"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_value_that_is_not_finite_is_named_with_its_row(value):
    x = np.zeros((5, 3))
    x[3, 1] = value

    with pytest.raises(InvalidDataset, match=r"x\[3\] has value .* at \(1\): values must be finite"):
        dataset(x)


@pytest.mark.parametrize("shape", [(0, 3), (3,), (3, 0)])
def test_an_empty_set_is_refused(shape):
    with pytest.raises(InvalidDataset, match="n >= 1"):
        dataset(np.zeros(shape))


def test_text_is_refused():
    with pytest.raises(InvalidDataset, match="dtype <U1"):
        dataset(np.array([["a"]]))


def test_labels_of_another_length_are_refused():
    with pytest.raises(InvalidDataset, match=r"y has shape \(2,\)"):
        dataset(np.zeros((3, 1)), np.zeros(2))


def test_a_level_out_of_range_is_named_with_its_row():
    x = np.zeros((4, 2, 2), np.int64)
    x[2, 1, 0] = 17

    with pytest.raises(InvalidDataset, match=r"x\[2\] has value 17 at \(1, 0\).*0 \.\.\. 16"):
        datasets.check_support("mine", x, make_likelihood("discretized_logistic", (2, 2), 17))


def test_grey_values_for_a_bernoulli_likelihood_are_refused_with_the_remedy():
    with pytest.raises(InvalidDataset, match=r"x\[0\] has value 0\.5.*binarization=stochastic"):
        datasets.check_support("mine", np.array([[0.5]]), make_likelihood("bernoulli", (1,), 2))


def test_the_digest_depends_on_contents_alone():
    x = np.arange(6.0).reshape(3, 2)

    assert dataset(x).digest == Dataset("other", x.astype(">f8"), None, "else").digest
    assert dataset(x).digest != dataset(x[::-1]).digest
    assert dataset(x).digest != dataset(x, np.arange(3)).digest
