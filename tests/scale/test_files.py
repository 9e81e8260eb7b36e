"""Files that are read in places give the rows of the whole, and say what is wrong with them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from elbod.scale.files import ImageFiles, NumpyFile, ParquetFiles
from elbod.training.errors import InvalidDataset
from elbod_store import NotFound
from elbod_store.reading import RangeReader


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), max_size=8))
def test_a_reader_of_ranges_reads_what_a_file_would(content: bytes, places: list[tuple[int, int]]) -> None:
    plain, ranges = io.BytesIO(content), io.BufferedReader(RangeReader(len(content), lambda a, b: content[a:b]))
    for place, count in places:
        assert ranges.seek(place) == plain.seek(place)
        assert ranges.read(count) == plain.read(count)
        assert ranges.tell() == plain.tell()


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_rows_of_parquet_files_come_in_order_wherever_groups_end(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    whole = np.arange(sum(sizes) * 2).reshape(-1, 2)
    names, start = [], 0
    for number, size in enumerate(sizes):
        names.append(f"{number}.parquet")
        x = whole[start : start + size]
        table = pyarrow.table({"a": x[:, 0], "b": x[:, 1], "y": [f"class {value}" for value in x[:, 0]]})
        pyarrow.parquet.write_table(table, folder / names[-1], row_group_size=data.draw(st.integers(1, 9)))
        start += size
    files = ParquetFiles(str(folder), tuple(names))
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.integers(first + 1, len(whole)))
    x, labels = files.read(first, last)
    assert files.rows == len(whole)
    assert np.array_equal(x, whole[first:last])
    assert labels == [f"class {value}" for value in whole[first:last, 0]]
    assert files.largest() == whole.max()


@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f8", "?"])
def test_rows_of_a_numpy_file_are_its_rows(tmp_path: Path, dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 2, (11, 3, 2)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    files = NumpyFile(str(tmp_path), "x.npy")
    found, _ = files.read(4, 9)
    assert files.rows == 11
    assert np.array_equal(found, x[4:9])
    assert files.largest() == x.max()


def test_other_rows_are_another_identity(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    before = NumpyFile(str(tmp_path), "x.npy").identity
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    assert NumpyFile(str(tmp_path), "x.npy").identity != before


def fortran(path: Path) -> None:
    np.save(path, np.asfortranarray(np.zeros((3, 2))))


def vector(path: Path) -> None:
    np.save(path, np.zeros(3))


def words(path: Path) -> None:
    np.save(path, np.array([["a", "b"]]))


def objects(path: Path) -> None:
    np.save(path, np.array([[object()]]), allow_pickle=True)


def text(path: Path) -> None:
    path.write_text("no array at all")


def cut(path: Path) -> None:
    np.save(path, np.zeros((30, 20)))
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (fortran, "Fortran order"),
        (vector, r"must be \(n, \*event_shape\)"),
        (words, "of numbers of at most 64 bits"),
        (objects, "of numbers of at most 64 bits"),
        (text, r"is no \.npy file"),
        (cut, "ends before the last of its 30 rows"),
    ],
)
def test_a_numpy_file_that_cannot_be_used_is_refused(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "x.npy")
    with pytest.raises(InvalidDataset, match=said):
        NumpyFile(str(tmp_path), "x.npy").read(0, 1)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        _ = NumpyFile(str(tmp_path), "x.npy").rows


def test_tables_of_different_columns_are_no_whole(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "0.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"b": [1]}), tmp_path / "1.parquet")
    with pytest.raises(InvalidDataset, match=r"1\.parquet has other columns"):
        _ = ParquetFiles(str(tmp_path), ("0.parquet", "1.parquet")).rows


def test_a_missing_value_is_named_by_its_row_in_the_whole(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.0, 2.0]}), tmp_path / "0.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.0, None]}), tmp_path / "1.parquet")
    with pytest.raises(InvalidDataset, match="the first in row 3"):
        ParquetFiles(str(tmp_path), ("0.parquet", "1.parquet")).read(0, 4)


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(InvalidDataset, match="cannot be read"):
        ParquetFiles(str(tmp_path), ("0.parquet",)).read(0, 1)


def test_images_come_in_the_order_of_their_paths_with_their_folders_as_labels(tmp_path: Path) -> None:
    for name, level in (("b/1.png", 3), ("b-/0.png", 9), ("a/2.png", 5), ("a/.hidden.png", 7)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2), level).save(tmp_path / name)
    files = ImageFiles(str(tmp_path), None, 1)
    x, labels = files.read(0, files.rows)
    assert x[:, 0, 0, 0].tolist() == [5, 3, 9]
    assert labels == ["a", "b", "b-"]


def test_an_image_in_colour_is_not_for_a_model_of_grey_ones(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
    with pytest.raises(InvalidDataset, match=r"0\.png is in colour"):
        ImageFiles(str(tmp_path), None, 1).read(0, 1)
