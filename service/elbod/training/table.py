"""Tables of numbers: CSV and Parquet files, every row of the file one row of x, every column an element."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elbod.training.errors import InvalidDataset

ENDINGS = frozenset({".csv", ".parquet"})

LABEL = "y"
TENSORS = "x"


def read_table(path: Path) -> tuple[NDArray[Any], NDArray[np.int64] | None, str, tuple[str, ...] | None]:
    """x (n, columns) int64 or float64, of a column `y` the numbers of its classes, the columns, and the classes' names.

    Raises InvalidDataset: a column that is no number, or a missing value, by name and row.
    """
    if not available():
        raise InvalidDataset(f"{path}: tables need pyarrow: pip install 'elbod[tables]', or save the numbers as .npy")
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        read = pyarrow.parquet.read_table if path.suffix == ".parquet" else pyarrow.csv.read_csv
        table = read(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidDataset(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if not len(table):
        raise InvalidDataset(f"{path} has no rows")
    x, labels = numbers(str(path), table)
    columns = [name for name in table.column_names if name != LABEL]
    units = f"columns {', '.join(columns[:20])}{', ...' if columns[20:] else ''} of `{path.name}`, unchanged"
    if labels is None:
        return x, None, units, None
    names = sorted(set(labels))
    known = {name: number for number, name in enumerate(names)}
    return x, np.array([known[name] for name in labels], np.int64), units, tuple(names)


def available() -> bool:
    """Whether tables can be read here."""
    return importlib.util.find_spec("pyarrow") is not None


def numbers(source: str, table: Any, first_row: int = 0) -> tuple[NDArray[Any], list[str] | None]:
    """x (n, columns) int64 or float64 of a pyarrow table, and of a column `y` what the labels are called.

    A column `x` of tensors is all of x, (n, *their shape), whatever stands beside it: a table of samples is one.
    Raises InvalidDataset: a column that is no number, or a missing value, by name and row, of which `first_row` is the
    table's first.
    """
    import pyarrow.compute

    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise InvalidDataset(f"{source} has several columns named {repeated[0]!r}")
    for name in table.column_names:
        if (missing := table[name].null_count) > 0:
            row = first_row + int(pyarrow.compute.index(table[name].is_null(), True).as_py())
            raise InvalidDataset(
                f"{source}: column {name!r} lacks {missing:,} values, the first in row {row}, counted from 0: "
                "drop or fill them"
            )
    if TENSORS in table.column_names and isinstance(table[TENSORS].type, pyarrow.FixedShapeTensorType):
        x = table[TENSORS].combine_chunks().to_numpy_ndarray()
    else:
        columns = [name for name in table.column_names if name != LABEL]
        if not columns:
            raise InvalidDataset(f"{source} has no columns of numbers")
        x = _numbers(source, columns, [table[name] for name in columns])
    return x, [str(value) for value in table[LABEL].to_pylist()] if LABEL in table.column_names else None


def _numbers(source: str, names: list[str], columns: list[Any]) -> NDArray[Any]:
    import pyarrow.types

    for name, column in zip(names, columns, strict=True):
        kind = column.type
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)):
            raise InvalidDataset(
                f"{source}: column {name!r} holds {kind}, not numbers: leave it out or encode it "
                f"(labels go into {LABEL!r})"
            )
    whole = not any(pyarrow.types.is_floating(column.type) for column in columns)
    dtype = np.int64 if whole else np.float64
    return np.stack([column.to_numpy().astype(dtype) for column in columns], axis=1)
