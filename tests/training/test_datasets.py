import contextlib
import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from elbod.generators.likelihoods import make_likelihood
from elbod.training import datasets
from elbod.training.datasets import Dataset
from elbod.training.errors import InvalidDataset


def dataset(x, y=None) -> Dataset:
    return Dataset("mine", np.asarray(x), y, "as given")


def write_idx(path, array) -> None:
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_the_digits_are_those_of_scikit_learn_with_17_levels():
    digits, theirs = datasets.load("digits"), load_digits()

    assert np.array_equal(digits.x, theirs.images)
    assert np.array_equal(digits.y, theirs.target)
    assert (digits.x.dtype, digits.y.dtype) == (np.uint8, np.int64)
    assert (digits.x.min(), digits.x.max()) == (0, 16)


def test_a_folder_of_idx_files_is_read_training_file_first(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.full((3, 2, 2), 1))
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", np.full((2, 2, 2), 2))
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([1, 2, 3]))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.array([4, 5]))

    found = datasets.load(str(tmp_path))

    assert found.x[:, 0, 0].tolist() == [1, 1, 1, 2, 2]
    assert found.y.tolist() == [1, 2, 3, 4, 5]


def test_a_folder_without_idx_files_is_refused(tmp_path):
    with pytest.raises(InvalidDataset, match="nor an IDX file train-images"):
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


def refusal(path) -> str:
    """The one line that refuses the file; it names the file and never tells how to unpickle it."""
    with pytest.raises(InvalidDataset) as caught:
        datasets.load(str(path))
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert "allow_pickle" not in message
    return message


@pytest.mark.parametrize("name", ["objects.npy", "objects.npz"])
def test_an_object_array_is_refused_since_it_is_a_pickle(tmp_path, name):
    objects = np.array([{"a": 1}], dtype=object)
    with (tmp_path / name).open("wb") as file:
        np.save(file, objects) if name.endswith("npy") else np.savez(file, x=objects)

    assert "Python objects, which are never read" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["text.npy", "text.npz", "pickled.npy"])
def test_a_file_that_is_no_array_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps([1, 2]) if name.startswith("pickled") else b"x,y\n1,2\n")

    assert "numpy.save" in refusal(tmp_path / name)


def npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


HUGE = npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 4), }\n" % 10**15)
CUT = npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,\n")


@pytest.mark.parametrize("content", [HUGE, CUT, npy(b"(" * 3000)], ids=["huge", "cut", "nested"])
def test_a_damaged_header_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", content)

    for name in ("a.npy", "b.npz"):
        refusal(tmp_path / name)


def test_a_damaged_compressed_array_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random((50, 3)))
    content = bytearray(path.read_bytes())
    content[100:140] = b"\xff" * 40
    path.write_bytes(content)

    refusal(path)


def files() -> list[bytes]:
    made = []
    for write in (lambda f, x: np.save(f, x), lambda f, x: np.savez(f, x=x), lambda f, x: np.savez_compressed(f, x=x)):
        write(buffer := io.BytesIO(), np.arange(12.0).reshape(4, 3))
        made.append(buffer.getvalue())
    return made


@given(st.sampled_from(files()), st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, content, data):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])

    with contextlib.suppress(InvalidDataset):
        datasets.load(str(path))


def test_numbers_wider_than_64_bits_are_refused():
    with pytest.raises(InvalidDataset, match=r"dtype float128.*at most 64 bits"):
        dataset(np.zeros((3, 2), np.longdouble))


def test_an_npz_without_x_names_what_it_has(tmp_path):
    np.savez(tmp_path / "b.npz", data=np.zeros((2, 2)))

    with pytest.raises(InvalidDataset, match="no array named x: it has data"):
        datasets.load(str(tmp_path / "b.npz"))


def test_a_path_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(
        InvalidDataset, match=r"neither a folder of images or IDX files nor an \.npy, \.npz, \.csv or \.parquet"
    ):
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
