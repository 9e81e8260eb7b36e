"""An .npz that is written batch by batch, so that memory holds one of them."""

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from elbod_client.cli.outputs import replacing

Array = NDArray[Any]


class Growing:
    """Arrays of `rows` rows, each in a file of its own beside `path` until all are there; then `path` is written."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._rows = path, rows
        self._files: dict[str, BinaryIO] = {}
        self._folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")

    def append(self, columns: Mapping[str, Array]) -> None:
        """The next rows of every array."""
        for name, values in columns.items():
            if name not in self._files:
                self._files[name] = self._begin(name, values.dtype, (self._rows, *values.shape[1:]))
            self._files[name].write(np.ascontiguousarray(values).data)

    def whole(self, name: str, values: Array) -> None:
        """An array that all rows have in common."""
        if name not in self._files:
            self._files[name] = self._begin(name, values.dtype, values.shape)
            self._files[name].write(np.ascontiguousarray(values).data)

    def finish(self) -> None:
        """Write `path`, whole or not at all."""
        for file in self._files.values():
            file.close()
        with replacing(self._path) as draft, zipfile.ZipFile(draft, "w") as archive:
            for name, file in self._files.items():
                archive.write(file.name, f"{name}.npy")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        self._folder.cleanup()

    def _begin(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> BinaryIO:
        file = (Path(self._folder.name) / f"{name}.npy").open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        return file
