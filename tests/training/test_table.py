"""CSV and Parquet files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from elbod.training import datasets
from elbod.training.errors import InvalidDataset


def test_columns_are_elements_and_y_is_the_label(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("height,y,width\n1.5,owl,2\n0.25,cat,3\n4,owl,5\n")
    found = datasets.load(str(tmp_path / "a.csv"))
    assert found.x.dtype == np.float64
    assert found.x.tolist() == [[1.5, 2], [0.25, 3], [4, 5]]
    assert found.y is not None
    assert found.y.tolist() == [1, 0, 1]
    assert found.classes == ("cat", "owl")
    assert "height, width" in found.units


def test_a_table_of_integers_stays_integer(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,9007199254740993\n0,3\n")
    x = datasets.load(str(tmp_path / "a.csv")).x
    assert x.dtype == np.int64
    assert x.tolist() == [[1, 9007199254740993], [0, 3]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.bool_])
def test_parquet_and_csv_of_the_same_numbers_are_the_same_rows(tmp_path: Path, dtype: Any) -> None:
    columns = {name: (np.arange(5) * 3 % 2).astype(dtype) for name in ("a", "b")}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    rows = "\n".join(",".join(str(float(columns[name][i])) for name in columns) for i in range(5))
    (tmp_path / "a.csv").write_text(f"a,b\n{rows}\n")
    ours, theirs = (datasets.load(str(tmp_path / name)).x for name in ("a.parquet", "a.csv"))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,x\n2,z\n", "column 'b' holds string, not numbers"),
        ("a,b\n1,2\n3,\n5,\n", "column 'b' lacks 2 values, the first in row 1"),
        ("a,a\n1,2\n", "several columns named 'a'"),
        ("a,b\n1\n", "cannot be read"),
        ("", "cannot be read"),
        ("y\n1\n", "no columns of numbers"),
        ("a,b\n", "has no rows"),
        ("a\n1\ninf\n", r"x\[1\] has value inf .*: values must be finite"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InvalidDataset, match=message):
        datasets.load(str(tmp_path / "a.csv"))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InvalidDataset, match=r"a\.parquet cannot be read"):
        datasets.load(str(tmp_path / "a.parquet"))
