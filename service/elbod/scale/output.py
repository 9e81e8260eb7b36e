"""The folder that a job writes: one Parquet file a part, each whole or not there, and the plan that they are of.

Names that begin with an underscore are no data to whoever reads such folders (Arrow, Spark, Ray, DuckDB).
"""

import io
import re
from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from elbod.errors import StartupError
from elbod.scale.plan import Plan
from elbod.training import table
from elbod_store import StoreError
from elbod_store.objects import Objects

PLAN = "_plan.json"
_SHARED = "_posterior.npz"
_PART = re.compile(r"part-(\d{8})\.parquet")
# What obstore calls a file that it is writing.
_DRAFT = re.compile(r"(part-\d{8}\.parquet|_\w+\.\w+)#\d+")

Columns = Mapping[str, NDArray[Any]]


@final
class Output:
    """A folder on a disk or in S3. Raises the store's StoreError wherever it is reached."""

    def __init__(self, url: str) -> None:
        """Raises StartupError if it cannot be opened or Parquet not be written."""
        if not table.available():
            raise StartupError("parts are Parquet files, which need pyarrow: pip install 'elbod[tables]'")
        try:
            self._objects = Objects.open(url)
        except StoreError as error:
            raise StartupError(f"--output {url}: {error}") from error
        self.url = url

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk, or what looks like one."""
        return self._objects.is_local

    def claim(self, plan: Plan) -> set[int]:
        """Make it this plan's, if it is not yet; the parts that are finished.

        Raises StartupError: it is another plan's, or holds something else.
        """
        if not self._objects.exists(PLAN):
            others = [entry.key for entry in self._objects.entries("")]
            if others:
                raise StartupError(
                    f"--output {self.url} is not empty, and nothing that elbod began: it holds {others[0]}; "
                    "choose another folder"
                )
            self._objects.create(PLAN, plan.to_json())
        try:
            there = Plan.of_json(self._objects.get(PLAN))
        except (ValueError, TypeError, KeyError) as error:
            raise StartupError(f"--output {self.url}: its {PLAN} cannot be read; choose another folder") from error
        if there != plan:
            raise StartupError(
                f"--output {self.url} is of another job: {plan.difference(there)}; choose another folder"
            )
        return {part for part in self.finished() if part < plan.parts}

    def finished(self) -> set[int]:
        """The numbers of the parts that are there."""
        found = (_PART.fullmatch(entry.key) for entry in self._objects.entries(""))
        return {int(match[1]) for match in found if match}

    def write(self, part: int, first_row: int, columns: Columns) -> None:
        """A part, with the numbers of its rows, once: of two writers the second changes nothing."""
        rows = len(next(iter(columns.values())))
        body = _parquet({"row": np.arange(first_row, first_row + rows)} | dict(columns))
        self._objects.create(_name(part), body)

    def write_shared(self, arrays: Columns) -> None:
        """What all rows of an encoding have in common."""
        if arrays:
            body = io.BytesIO()
            np.savez(body, **arrays)  # type: ignore[arg-type]
            self._objects.create(_SHARED, body.getvalue())

    def tidy(self) -> None:
        """Remove what killed writers began, once all parts are there: readers of folders would take it for data."""
        folder = self._objects.local_path("")
        for path in [] if folder is None else folder.glob("*#*"):
            if _DRAFT.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def read(self, parts: int) -> dict[str, NDArray[Any]]:
        """Every column of one number a row, over all rows in order."""
        import pyarrow
        import pyarrow.parquet

        tables = []
        for part in range(parts):
            # On this thread: one of Arrow's that gives the bytes back late is an abort at the interpreter's end.
            raw = pyarrow.BufferReader(self._objects.get(_name(part)))
            with pyarrow.parquet.ParquetFile(raw, pre_buffer=False) as file:
                here = file.read(use_threads=False)
            plain = [field.name for field in here.schema if not isinstance(field.type, pyarrow.FixedShapeTensorType)]
            tables.append(here.select(plain))
        whole = pyarrow.concat_tables(tables)
        return {name: whole[name].to_numpy() for name in whole.column_names}


def _name(part: int) -> str:
    return f"part-{part:08}.parquet"


def _parquet(columns: Columns) -> bytes:
    import pyarrow
    import pyarrow.parquet

    arrays = {
        name: pyarrow.array(values)
        if values.ndim == 1
        else pyarrow.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
        for name, values in columns.items()
    }
    body = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), body)
    return body.getvalue()
