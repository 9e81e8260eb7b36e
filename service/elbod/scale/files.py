"""Files whose rows are read in places: row i of the whole by its number, without the rows before it.

A NumPy file, Parquet files and folders of images, on a disk or in S3. Values are as they are in the files.
"""

import bisect
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Protocol, final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from elbod.training import image_folder, table
from elbod.training.errors import InvalidDataset
from elbod_store.objects import Entry, Objects

Array = NDArray[Any]

# Rows are looked through for their largest value in pieces of so many bytes.
_SCAN = 64 * 1024**2


class Files(Protocol):
    """n rows in files. They travel between processes, and raise InvalidDataset and the store's StoreError."""

    @property
    def rows(self) -> int: ...

    @property
    def identity(self) -> dict[str, Any]:
        """Plain JSON that changes when the files do."""

    def largest(self) -> float:
        """The largest of all values, or of all that they may have."""

    def read(self, start: int, stop: int) -> tuple[Array, Sequence[str] | None]:
        """x of these rows, and what their labels are called."""


@final
@dataclass(frozen=True)
class NumpyFile:
    """An `.npy` array of shape (n, *event_shape)."""

    folder: str
    name: str

    @cached_property
    def _header(self) -> tuple[tuple[int, ...], np.dtype[Any], int, Entry]:
        """Shape, dtype, and where the values begin."""
        objects = opened(self.folder)
        entry = _entry(objects, self.name)
        try:
            with objects.reader(self.name) as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, fortran, dtype = read(file)
                offset = file.tell()
        except ValueError as error:
            raise InvalidDataset(f"{self.name} is no .npy file: {error}") from error
        if fortran and len(shape) > 1:
            raise InvalidDataset(f"{self.name} is in Fortran order: save it with np.ascontiguousarray, rows as rows")
        if len(shape) < 2 or 0 in shape or dtype.kind not in "buif" or dtype.itemsize > 8:
            raise InvalidDataset(
                f"{self.name}: {dtype} of shape {shape}: it must be (n, *event_shape) of numbers of at most 64 bits"
            )
        if entry.size < offset + int(np.prod(shape)) * dtype.itemsize:
            raise InvalidDataset(f"{self.name} ends before the last of its {shape[0]:,} rows")
        return shape, dtype, offset, entry

    @property
    def rows(self) -> int:
        return self._header[0][0]

    @property
    def identity(self) -> dict[str, Any]:
        return _identity([self._header[3]])

    def largest(self) -> float:
        shape, dtype, _, _ = self._header
        step = max(1, _SCAN // (int(np.prod(shape[1:])) * dtype.itemsize))
        return max(
            float(self.read(start, min(start + step, self.rows))[0].max()) for start in range(0, self.rows, step)
        )

    def read(self, start: int, stop: int) -> tuple[Array, None]:
        shape, dtype, offset, _ = self._header
        row = int(np.prod(shape[1:])) * dtype.itemsize
        raw = opened(self.folder).get_range(self.name, offset + start * row, offset + stop * row)
        return np.frombuffer(raw, dtype).reshape(stop - start, *shape[1:]), None


@final
@dataclass(frozen=True)
class ParquetFiles:
    """Tables with the same columns, one after the other, of which the column `y` holds labels."""

    folder: str
    names: tuple[str, ...]

    @cached_property
    def _entries(self) -> list[Entry]:
        objects = opened(self.folder)
        return [_entry(objects, name) for name in self.names]

    @cached_property
    def _groups(self) -> tuple[list[tuple[str, int]], list[int]]:
        """Every row group's file and number in it, and how many rows end with it."""
        groups, rows, columns = [], [], None
        for name in self.names:
            with self._opened(name) as file:
                here = [(field.name, str(field.type)) for field in file.schema_arrow]
                if columns not in (None, here):
                    raise InvalidDataset(f"{name} has other columns than {self.names[0]}: {here}")
                columns = here
                for number in range(file.metadata.num_row_groups):
                    groups.append((name, number))
                    rows.append(file.metadata.row_group(number).num_rows)
        if not sum(rows):
            raise InvalidDataset(f"{self.names[0]} has no rows")
        return groups, list(accumulate(rows))

    def _opened(self, name: str) -> Any:
        if not table.available():
            raise InvalidDataset(f"{name}: Parquet needs pyarrow: pip install 'elbod[tables]'")
        import pyarrow
        import pyarrow.parquet

        try:
            # Read on this thread: Arrow's own threads would be in Python at the interpreter's end.
            return pyarrow.parquet.ParquetFile(opened(self.folder).reader(name), pre_buffer=False)
        except pyarrow.ArrowException as error:
            raise InvalidDataset(f"{name} cannot be read: {str(error).partition(chr(10))[0]}") from error

    @property
    def rows(self) -> int:
        return self._groups[1][-1]

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self._entries)

    def largest(self) -> float:
        return max(float(table.numbers(name, piece)[0].max()) for name, _, piece in self._pieces(0, self.rows))

    def read(self, start: int, stop: int) -> tuple[Array, Sequence[str] | None]:
        found = [table.numbers(name, piece, row) for name, row, piece in self._pieces(start, stop)]
        labels = [names for _, names in found if names is not None]
        return np.concatenate([x for x, _ in found]), [name for names in labels for name in names] if labels else None

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[str, int, Any]]:
        """File, number of the first row in the whole, and these rows, as tables."""
        groups, ends = self._groups
        for place in range(bisect.bisect_right(ends, start), len(groups)):
            name, number = groups[place]
            begin = ends[place - 1] if place else 0
            if begin >= stop:
                return
            if ends[place] == begin:
                continue
            with self._opened(name) as file:
                whole = file.read_row_group(number, use_threads=False)
            first, last = max(start, begin), min(stop, ends[place])
            yield name, first, whole.slice(first - begin, last - first)


@final
@dataclass(frozen=True)
class ImageFiles:
    """A folder of images, every file one row, sub-folders classes, with `channels` of the model that they are for."""

    folder: str
    size: int | None
    channels: int

    @cached_property
    def _entries(self) -> list[Entry]:
        found = [entry for entry in opened(self.folder).entries("") if image_folder.is_image(entry.key)]
        return sorted(found, key=lambda entry: entry.key.split("/"))

    @property
    def rows(self) -> int:
        return len(self._entries)

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self._entries)

    def largest(self) -> float:
        return 255.0

    def read(self, start: int, stop: int) -> tuple[Array, Sequence[str] | None]:
        objects = opened(self.folder)
        keys = [entry.key for entry in self._entries[start:stop]]
        images: list[NDArray[np.uint8]] = []
        for key in keys:
            with objects.reader(key) as file:
                image = image_folder.read_image(file, key, self.size)
            if image.shape[-1] > self.channels:
                raise InvalidDataset(f"{key} is in colour, and the model of grey images")
            if images and image.shape[:2] != images[0].shape[:2]:
                raise InvalidDataset(f"{key} has another size than {keys[0]}: the model's images were not resized")
            images.append(np.broadcast_to(image, (*image.shape[:2], self.channels)))
        x = np.ascontiguousarray(np.moveaxis(np.stack(images), -1, 1))
        labels = [key.partition("/")[0] for key in keys if "/" in key]
        return x, labels if len(labels) == len(keys) else None


@lru_cache(maxsize=16)
def opened(folder: str) -> Objects:
    """That folder, with connections that the next part uses again."""
    return Objects.open(folder)


def _entry(objects: Objects, name: str) -> Entry:
    return Entry(name, objects.head(name), objects.modified(name))


def _identity(entries: Sequence[Entry]) -> dict[str, Any]:
    """Names, sizes and times: hashing terabytes would take longer than scoring some of them."""
    listed = [[entry.key, entry.size, entry.modified.isoformat()] for entry in entries]
    return {
        "files": len(listed),
        "bytes": sum(entry.size for entry in entries),
        "listing": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
    }
