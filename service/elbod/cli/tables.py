"""Columns of numbers to a file, whole or not at all."""

import csv
import importlib.util
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elbod.errors import StartupError

Columns = Mapping[str, NDArray[Any]]


def check_output(path: Path, endings: Iterable[str] | None = None) -> None:
    """Refuse now what could not be written later; `endings` are those of tables by default. Raises StartupError."""
    known = sorted(WRITERS if endings is None else endings)
    if path.suffix not in known:
        raise StartupError(f"--output {path}: the ending must be {' or '.join(known)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise StartupError(f"--output {path}: parquet needs pyarrow: pip install pyarrow, or choose another ending")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK) or path.is_dir():
        raise StartupError(f"--output {path}: there is no folder {path.parent} that can be written to")


def write_table(path: Path, columns: Columns) -> None:
    """Write equally long columns, one line a row with its number, by the ending of the path. Raises StartupError."""
    write_whole(path, WRITERS[path.suffix]({"row": np.arange(len(next(iter(columns.values())))), **columns}))


def write_arrays(path: Path, arrays: Columns) -> None:
    """Write arrays of any shapes as an .npz. Raises StartupError."""
    write_whole(path, _npz(arrays))


def write_whole(path: Path, content: bytes) -> None:
    """Write all of a file or nothing. Raises StartupError."""
    try:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StartupError(f"--output {path} cannot be written: {error.strerror or error}") from error


def _csv(columns: Columns) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(_plain(values, "") for values in columns.values()), strict=True))
    return text.getvalue().encode()


def _jsonl(columns: Columns) -> bytes:
    rows = zip(*(_plain(values, None) for values in columns.values()), strict=True)
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows).encode()


def _npz(columns: Columns) -> bytes:
    body = io.BytesIO()
    # NumPy 2.0 would store `allow_pickle=False` as one more array; columns are numbers, which are never pickled.
    np.savez(body, **columns)  # type: ignore[arg-type]
    return body.getvalue()


def _parquet(columns: Columns) -> bytes:
    import pyarrow
    import pyarrow.parquet

    body = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()}), body)
    return body.getvalue()


def _plain(values: NDArray[Any], undefined: Any) -> list[Any]:
    """Python numbers at full precision; NaN is `undefined`."""
    return [undefined if isinstance(value, float) and math.isnan(value) else value for value in values.tolist()]


WRITERS: dict[str, Callable[[Columns], bytes]] = {".csv": _csv, ".jsonl": _jsonl, ".npz": _npz, ".parquet": _parquet}
