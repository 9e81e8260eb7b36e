"""Data sets in memory, in data units: what `x` is for a model trained on them.

Sources are `digits` (inside scikit-learn), `fashion-mnist` (a Debian package), a folder of IDX files or of images, and
`.npy`, `.npz` (array `x`, optional `y`), CSV and Parquet files. Nothing is ever unpickled.
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from elbod.generators.likelihoods import Likelihood
from elbod.training import image_folder, table
from elbod.training.errors import InvalidDataset
from elbod.training.idx import read_idx

Array = NDArray[Any]

_IDX_IMAGES = ("train-images", "t10k-images")

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Dataset:
    """n rows of data: `x` (n, *event_shape) and labels `y` (n,) or None; `units` says how raw files became x.

    `classes` are what the labels 0, 1, ... are called, where they are called something; `levels` is how many levels a
    value may have, where the kind of data says so.
    """

    name: str
    x: Array
    y: Array | None
    units: str
    classes: tuple[str, ...] | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or 0 in self.x.shape:
            raise InvalidDataset(
                f"{self.name}: x has shape {self.x.shape}: it must be (n, *event_shape) with n >= 1, nothing empty"
            )
        if self.x.dtype.kind not in "buif" or self.x.dtype.itemsize > 8:
            raise InvalidDataset(
                f"{self.name}: x has dtype {self.x.dtype}: it must be boolean, integer or float, of at most 64 bits"
            )
        if self.y is not None and self.y.shape != (len(self.x),):
            raise InvalidDataset(
                f"{self.name}: y has shape {self.y.shape}: one label per row of x would be ({len(self.x)},)"
            )
        if self.y is not None and self.y.dtype.kind not in "biu":
            raise InvalidDataset(f"{self.name}: y has dtype {self.y.dtype}: labels must be integers")
        if self.x.dtype.kind == "f":
            with np.errstate(over="ignore"):
                wrong = ~np.isfinite(self.x.astype(np.float32))
            if wrong.any():
                raise InvalidDataset(f"{self.name}: {_first(self.x, wrong)}: values must be finite in float32")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.x.shape[1:]

    def label_name(self, value: int) -> str:
        """What the label of that value is called."""
        return str(value) if self.classes is None else self.classes[value]

    @property
    def digest(self) -> str:
        """sha256 of dtypes, shapes and contents, and of the classes' names."""
        sha = hashlib.sha256()
        for array in (self.x, self.y):
            if array is not None:
                little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                sha.update(f"{little.dtype.str}{little.shape}".encode())
                sha.update(little.data)
        if self.classes is not None:
            sha.update(json.dumps(self.classes).encode())
        return sha.hexdigest()


def check_support(name: str, x: Array, likelihood: Likelihood) -> None:
    """Raises InvalidDataset naming the first row and value outside the likelihood's support."""
    values = torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.float64))
    supported = likelihood.supports(values).numpy()
    if not supported.all():
        message = (
            f"{name}: {_first(x, ~supported)}; a {likelihood.name} likelihood has the support {likelihood.support}"
        )
        if likelihood.name == "bernoulli":
            message += ": for grey values add --set binarization=stochastic"
        raise InvalidDataset(message)


def _first(x: Array, wrong: NDArray[np.bool_]) -> str:
    """`x[3] has value 17 at (0, 5)` for the first true entry of `wrong`."""
    place = np.unravel_index(int(wrong.argmax()), wrong.shape)
    element = ", ".join(str(int(i)) for i in place[1:])
    return f"x[{int(place[0])}] has value {x[place]} at ({element})"


def load(source: str, image_size: int | None = None) -> Dataset:
    """The data set of that name or path; with `image_size`, image files are made squares of so many pixels.

    Raises InvalidDataset.
    """
    path = Path(source)
    if is_image_folder(source):
        return Dataset(path.resolve().name, *image_folder.read_images(path, image_size), levels=256)
    if image_size is not None:
        raise InvalidDataset(f"image_size is for folders of images: {source} is none")
    if source == "digits":
        return load_digits()
    if source == "fashion-mnist":
        return load_fashion_mnist()
    if path.is_dir():
        return load_idx_folder(path)
    if path.suffix in {".npy", ".npz"}:
        return load_numpy(path)
    if path.suffix in table.ENDINGS:
        return Dataset(path.stem, *table.read_table(path))
    raise InvalidDataset(
        f"{source} is neither a folder of images or IDX files nor an .npy, .npz, .csv or .parquet file"
    )


def is_image_folder(source: str) -> bool:
    """Whether that is a folder of image files, in itself or in sub-folders."""
    folder = Path(source)
    if not folder.is_dir() or any(path.name.startswith(_IDX_IMAGES) for path in folder.iterdir()):
        return False
    return bool(image_folder.image_files(folder))


def load_digits() -> Dataset:
    """1,797 handwritten digits of 8x8 pixels with levels 0 ... 16 (UCI; scikit-learn ships them)."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise InvalidDataset("the digits are inside scikit-learn: pip install 'elbod[train]'")
    # Its file and not its function, whose import takes a second.
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except OSError as error:
        raise InvalidDataset(f"this scikit-learn has no digits in {path}: {error.strerror or error}") from error
    units = "pixels are the integers 0 ... 16 of scikit-learn's `load_digits().images`, unchanged"
    return Dataset("digits", rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64), units)


def load_fashion_mnist(folder: Path = FASHION_MNIST) -> Dataset:
    """70,000 images of 28x28 8-bit pixels, the training file first (Xiao, Rasul and Vollgraf, 2017)."""
    if not folder.is_dir():
        raise InvalidDataset(
            f"there is no Fashion-MNIST in {folder}: apt install dataset-fashion-mnist, or --data FOLDER of IDX files"
        )
    return load_idx_folder(folder)


def load_idx_folder(folder: Path) -> Dataset:
    """`train-images*` and, where present, `t10k-images*` after it, with their labels; gzipped or not."""
    images, labels = [], []
    for part in ("train", "t10k"):
        if (path := _one(folder, f"{part}-images")) is not None:
            images.append(read_idx(path))
            label_path = _one(folder, f"{part}-labels")
            labels.append(None if label_path is None else read_idx(label_path))
    if not images:
        raise InvalidDataset(f"{folder} has neither images nor an IDX file train-images* or t10k-images*")
    if len({array.shape[1:] for array in images}) > 1:
        shapes = " and ".join(str(array.shape) for array in images)
        raise InvalidDataset(f"{folder}: training and test images differ in shape: {shapes}")
    known = [array for array in labels if array is not None]
    y = np.concatenate(known).astype(np.int64) if len(known) == len(labels) else None
    units = "pixels are the unsigned bytes of the IDX files, unchanged, training file first"
    return Dataset(folder.name, np.concatenate(images), y, units)


def _one(folder: Path, beginning: str) -> Path | None:
    found = sorted(path for path in folder.iterdir() if path.name.startswith(beginning))
    if len(found) > 1:
        raise InvalidDataset(f"{folder} has several files {beginning}*: {', '.join(path.name for path in found)}")
    return found[0] if found else None


def load_numpy(path: Path) -> Dataset:
    """An `.npy` array, or arrays `x` and optionally `y` of an `.npz`. Object arrays, which are pickles, are refused."""
    try:
        # Opened here, since numpy leaves a damaged archive open.
        with path.open("rb") as file:
            x, y, what = _arrays(path, np.load(file, allow_pickle=False))
    except InvalidDataset:
        raise
    except OSError as error:
        raise InvalidDataset(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # For damaged files numpy, zipfile, zlib and tokenize raise a dozen types, which share no base.
        raise InvalidDataset(f"{path} is no array of numbers: {_fault(error)}") from error
    return Dataset(path.stem, x, y, f"{what} of `{path.name}`, unchanged")


def _arrays(path: Path, loaded: Array | NpzFile) -> tuple[Array, Array | None, str]:
    """x, y and the place of x in the file."""
    if isinstance(loaded, np.ndarray):
        return loaded, None, "values"
    with loaded:
        if "x" not in loaded:
            raise InvalidDataset(f"{path} has no array named x: it has {', '.join(loaded.files) or 'none'}")
        x, y = loaded["x"], loaded.get("y")
    for name, array in (("x", x), ("y", y)):
        # Of a member without the magic bytes of an array numpy returns the raw bytes.
        if not isinstance(array, np.ndarray | None):
            raise InvalidDataset(f"{path}: {name} is no array in NumPy's format")
    return x, y, "array `x`"


def _fault(error: Exception) -> str:
    """What is wrong with the file, in one line."""
    if isinstance(error, MemoryError):
        return "its header promises more than fits in memory"
    text = " ".join(str(error).split())
    if "pickle" in text:
        # numpy's own words recommend to unpickle it.
        return "it is not in NumPy's format or holds Python objects, which are never read: save numbers by numpy.save"
    return text or type(error).__name__
