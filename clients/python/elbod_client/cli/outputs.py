"""Tables of scores, whole or not at all, and the parts of one that was interrupted."""

import contextlib
import csv
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Columns = Mapping[str, Array]

_RUN: Final = "run.json"
ENDINGS: Final = (".csv", ".jsonl", ".npz", ".parquet")


def check_table(path: Path) -> None:
    """Refuse now what could not be written later. Raises ValueError or ImportError."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"--output {path}: the ending must be one of {', '.join(ENDINGS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - only whether it is there
        except ImportError:
            raise ImportError(f"--output {path}: parquet needs pyarrow: pip install pyarrow") from None
    check_folder(path)


def check_folder(path: Path) -> None:
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK) or path.is_dir():
        raise ValueError(f"--output {path}: there is no folder {path.parent} that can be written to")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` that takes its place at the end, if all went well."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_table(path: Path, columns: Columns) -> None:
    """Equally long columns, one line a row, by the ending of the path."""
    with replacing(path) as draft:
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            arrays = {name: pyarrow.array(values) for name, values in columns.items()}
            pyarrow.parquet.write_table(pyarrow.table(arrays), draft)
        elif path.suffix == ".npz":
            with draft.open("wb") as file:
                np.savez(file, **columns)  # type: ignore[arg-type]
        else:
            rows = zip(*(_plain(values) for values in columns.values()), strict=True)
            with draft.open("w", newline="") as text:
                if path.suffix == ".csv":
                    writer = csv.writer(text)
                    writer.writerow(columns)
                    writer.writerows(rows)
                else:
                    text.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)


def _plain(values: Array) -> list[Any]:
    """Python numbers at full precision; None for NaN."""
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values.tolist()]


class Parts:
    """The finished batches of a table, in a folder beside it, until all are there.

    A file for each batch, written whole or not at all. `asked` says what the batches are of, so that another run's are
    never taken for one's own; `chosen`, what was drawn and resolved at the start, holds for all of them.
    """

    def __init__(self, output: Path, asked: Mapping[str, Any]) -> None:
        """Raises ValueError if the folder is of another run."""
        self.folder = output.with_name(f".{output.name}.parts")
        self.asked, self.chosen = dict(asked), dict[str, Any]()
        if not (self.folder / _RUN).exists():
            return
        before = json.loads((self.folder / _RUN).read_text())
        changed = sorted(name for name in self.asked if before["asked"].get(name) != self.asked[name])
        if changed:
            raise ValueError(
                f"{self.folder} has parts of another run, whose {' and '.join(changed)} differ: delete it, "
                "or give another --output"
            )
        self.chosen = before["chosen"]

    def begin(self, **chosen: Any) -> None:
        """Make the folder, and say what was chosen."""
        self.chosen = chosen
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / _RUN) as draft:
            draft.write_text(json.dumps({"asked": self.asked, "chosen": chosen}))

    def done(self, start: int) -> bool:
        return self._path(start).exists()

    def write(self, start: int, columns: Columns) -> None:
        with replacing(self._path(start)) as draft, draft.open("wb") as file:
            np.savez(file, **columns)  # type: ignore[arg-type]

    def collect(self, starts: list[int]) -> dict[str, Array]:
        """All columns of all batches; one that a batch lacks is NaN there."""
        parts = []
        for start in starts:
            with np.load(self._path(start), allow_pickle=False) as found:
                parts.append({name: found[name] for name in found.files})
        names = list(dict.fromkeys(name for part in parts for name in part))
        return {name: np.concatenate([_column(part, name) for part in parts]) for name in names}

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:012d}.npz"


def _column(part: dict[str, Array], name: str) -> Array:
    found = part.get(name)
    return np.full(len(next(iter(part.values()))), np.nan) if found is None else found


def content_of(path: Path) -> str:
    """sha256 of a file, or of the names, sizes and times of a folder's files."""
    sha = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            status = file.stat()
            sha.update(f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return sha.hexdigest()
    with path.open("rb") as opened:
        while chunk := opened.read(1024**2):
            sha.update(chunk)
    return sha.hexdigest()
