"""The rows of a job that is cut into parts: x as a request has it, and class numbers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from elbod.errors import StartupError
from elbod.scale.files import Files, ImageFiles, NumpyFile, ParquetFiles, opened
from elbod.training.errors import InvalidDataset
from elbod.training.held_out import as_requested, image_size, rows_to_score
from elbod.training.image_folder import is_image
from elbod.training.splits import intensities
from elbod_store import Manifest, NotFound

Array = NDArray[Any]
Labels = NDArray[np.int64]


class Source(Protocol):
    """n rows that several processes may read at once."""

    @property
    def origin(self) -> str:
        """In words what they are."""

    @property
    def rows(self) -> int: ...

    @property
    def identity(self) -> dict[str, Any]:
        """Plain JSON that changes when the rows do: a job goes on only with the rows that it began with."""

    def read(self, start: int, stop: int) -> tuple[Array, Labels | None]:
        """x in the model's data units, or in [0, 1] if it will be binarized, and the model's class numbers."""


@final
@dataclass(frozen=True)
class Held:
    """Rows in memory."""

    origin: str
    x: Array
    label: Labels | None

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def identity(self) -> dict[str, Any]:
        sha = hashlib.sha256(np.ascontiguousarray(self.x).data)
        sha.update(b"" if self.label is None else self.label.tobytes())
        return {"dtype": self.x.dtype.str, "shape": list(self.x.shape), "sha256": sha.hexdigest()}

    def read(self, start: int, stop: int) -> tuple[Array, Labels | None]:
        return self.x[start:stop], None if self.label is None else self.label[start:stop]


@final
@dataclass(frozen=True)
class InPlace:
    """Rows that stay in their files until their part is worked."""

    origin: str
    files: Files
    classes: tuple[str, ...] | None
    # Whether they are 8-bit levels that will be binarized.
    divided: bool

    @property
    def rows(self) -> int:
        return self.files.rows

    @property
    def identity(self) -> dict[str, Any]:
        return self.files.identity

    def read(self, start: int, stop: int) -> tuple[Array, Labels | None]:
        x, names = self.files.read(start, stop)
        x = intensities(self.origin, x) if self.divided else as_requested(x)
        return x, None if names is None or self.classes is None else self._numbers(names, start)

    def _numbers(self, names: Sequence[str], start: int) -> Labels:
        assert self.classes is not None
        known = {name: number for number, name in enumerate(self.classes)}
        for row, name in enumerate(names, start):
            if name not in known:
                raise InvalidDataset(
                    f"{self.origin}: row {row} has the label {name}, which the model has not: "
                    f"it has {', '.join(self.classes[:20])}"
                )
        return np.array([known[name] for name in names], np.int64)


def source(manifest: Manifest, data: str | None, *, binarized: bool) -> Source:
    """The rows of `data`, in their files where those can be read in places; the version's test rows without.

    Raises StartupError, InvalidDataset, and the store's StoreError for data in S3.
    """
    files = None if data is None else _files(manifest, data)
    if data is None or files is None:
        if data is not None and "://" in data:
            raise StartupError(f"--data {data}: in S3 it is an .npy or .parquet file, or a folder of images")
        found = rows_to_score(manifest, data, binarized=binarized)
        return Held(found.origin, found.x, found.label)
    try:
        divided = binarized and files.largest() > 1 and files.read(0, 1)[0].dtype.kind in "biu"
        origin = f"all {files.rows:,} rows of {PurePosixPath(data).name}" + (
            ", bytes divided by 255" if divided else ""
        )
    except NotFound as error:
        raise StartupError(f"--data {data}: {error}") from error
    return InPlace(origin, files, manifest.labels, divided)


def _files(manifest: Manifest, data: str) -> Files | None:
    """The files of that path or URL; None if it is nothing that is read in places."""
    if "://" not in data:
        if not Path(data).exists():
            return None
        # Whoever reads it may be in another folder.
        data = str(Path(data).absolute())
    parent, _, name = data.rpartition("/")
    if name.endswith(".npy"):
        return NumpyFile(parent, name)
    if name.endswith(".parquet"):
        return ParquetFiles(parent, (name,))
    if "://" not in data and not Path(data).is_dir():
        return None
    keys = [entry.key for entry in opened(data).entries("")]
    tables = tuple(sorted(key for key in keys if key.endswith(".parquet") and "/" not in key and key[0] not in "._"))
    if tables:
        return ParquetFiles(data, tables)
    if any(is_image(key) for key in keys):
        return ImageFiles(data, image_size(manifest), manifest.event_shape[0] if len(manifest.event_shape) == 3 else 1)
    return None
