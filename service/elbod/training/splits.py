"""Which rows train, stop, calibrate and test; every row has exactly one use.

Rows are assigned by a hash of their content: a row keeps its part when rows are added, removed or reordered, and equal
rows never end up on both sides. The published Fashion-MNIST protocol fixes its parts by position instead.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elbod.generators import noise
from elbod.generators.noise import Keys, Stream
from elbod.training.datasets import Array, Dataset
from elbod.training.errors import InvalidDataset

Binarization = Literal["stochastic", "threshold"]

# Shares of the rows, from the low end of the hash; the rest trains.
TEST_SHARE, CALIBRATION_SHARE, VALIDATION_SHARE = 0.20, 0.08, 0.07
_BY_HASH = ("test", "calibration", "validation", "train")
_HELD_OUT = ("validation", "calibration", "test")

# The held-out rows of stochastic data are binarised once, with this seed, so that every model sees the same bits.
BINARIZATION_SEED = 0

_FASHION_SHAPE = (70_000, 28, 28)
_FASHION_TEST_BITS = "25f0d69b40ae46a7566c3c5fb8650d55ec964d5c10d88ced01e3afa36df0cb90"


@dataclass(frozen=True)
class Labels:
    """Class numbers (int64) of the rows of each part, and what the classes are called."""

    names: tuple[str, ...]
    train: Array
    validation: Array
    calibration: Array
    test: Array

    @classmethod
    def of(cls, dataset: Dataset, parts: Mapping[str, NDArray[np.intp]]) -> "Labels | None":
        """The classes are the different values of y in ascending order; None where the data have no y."""
        if dataset.y is None:
            return None
        values, numbers = np.unique(dataset.y, return_inverse=True)
        return cls(
            tuple(map(dataset.label_name, values)),
            **{part: numbers[rows].astype(np.int64) for part, rows in parts.items()},
        )


@dataclass(frozen=True)
class Split:
    """Rows by use, in data units. Calibration rows are used neither for training nor for early stopping.

    Where every training visit draws new bits, `train` still has its grey values: bytes of 0 ... 255, or float32 in
    [0, 1]; the other parts have fixed bits.
    """

    train: Array
    validation: Array
    calibration: Array
    test: Array
    labels: "Labels | None" = None

    @property
    def sizes(self) -> dict[str, int]:
        return {part: len(getattr(self, part)) for part in ("train", *_HELD_OUT)}

    def shortened(self, rows: int | None) -> "Split":
        """With the first `rows` of each held-out part, or of those that have fewer, all; None: with all of each."""
        if rows is None:
            return self
        labels = None if self.labels is None else replace(self.labels, **_first(self.labels, rows))
        return replace(self, **_first(self, rows), labels=labels)


def split(dataset: Dataset, binarization: Binarization | None = None) -> Split:
    """Parts by content: 20 % test, 8 % calibration, 7 % validation, 65 % train."""
    x = dataset.x
    if binarization == "threshold":
        x = (intensities(dataset.name, x) > 0.5).astype(np.uint8)
    edges = np.cumsum([TEST_SHARE, CALIBRATION_SHARE, VALIDATION_SHARE])
    place = positions(x)
    part = np.searchsorted(edges, place, side="right")
    where = {name: np.flatnonzero(part == number) for number, name in enumerate(_BY_HASH)}
    test, calibration, validation, train = (x[where[name]] for name in _BY_HASH)
    if binarization == "stochastic":
        intensities(dataset.name, x)  # refuses the whole before it is cut up
        train = train.astype(np.float32 if x.dtype.kind == "f" else np.uint8)
        # One range of indices a part, so that no two parts share a random number.
        test, calibration, validation = (
            binarize(intensities(dataset.name, rows), first_index=number << 40)
            for number, rows in enumerate((test, calibration, validation))
        )
    found = Split(train, validation, calibration, test, Labels.of(dataset, where))
    if empty := [name for name, size in found.sizes.items() if size < 2]:
        rows, distinct = len(x), len(np.unique(place))
        repeated = f", {distinct} of them distinct," if distinct < rows else ""
        raise InvalidDataset(
            f"{dataset.name}: {rows} rows{repeated} leave fewer than 2 for {', '.join(empty)}: "
            f"more {'distinct ' if repeated else ''}rows are needed"
        )
    return found


def fashion_split(dataset: Dataset, *, binary: bool) -> Split:
    """The published protocols of Fashion-MNIST: 50,000 rows train, 10,000 validate, the test file tests.

    The validation rows are halved by their hash: one half stops training early, the other calibrates. For
    `fashion-mnist-8bit` rows are the pixels themselves. For `fashion-mnist-binary` the test bits are drawn once, by a
    recipe that every paper shares, and checked against their sha256.
    """
    if dataset.x.shape != _FASHION_SHAPE:
        raise InvalidDataset(f"{dataset.name}: Fashion-MNIST has shape {_FASHION_SHAPE}, this is {dataset.x.shape}")
    held_out = dataset.x[50_000:60_000]
    calibrates = positions(held_out) < 0.5
    where = {
        "train": np.arange(50_000),
        "validation": 50_000 + np.flatnonzero(~calibrates),
        "calibration": 50_000 + np.flatnonzero(calibrates),
        "test": np.arange(60_000, 70_000),
    }
    labels = Labels.of(dataset, where)
    if not binary:
        return Split(**{part: dataset.x[rows] for part, rows in where.items()}, labels=labels)
    held_out = intensities(dataset.name, held_out)
    return Split(
        train=dataset.x[:50_000],
        validation=binarize(held_out[~calibrates], first_index=0),
        calibration=binarize(held_out[calibrates], first_index=1 << 40),
        test=fashion_test_bits(dataset.x[60_000:]),
        labels=labels,
    )


def fashion_test_bits(test: Array) -> NDArray[np.uint8]:
    """The fixed bits (10000, 28, 28) of the test images in file order."""
    state = np.random.RandomState(777)
    state.random_sample(test.size)  # the published script draws these first
    bits = state.binomial(1, test.reshape(len(test), -1) / 255.0).astype(np.uint8)
    digest = hashlib.sha256(np.packbits(bits).tobytes()).hexdigest()
    if digest != _FASHION_TEST_BITS:
        raise InvalidDataset(
            f"the fixed test bits have sha256 {digest}, the published ones {_FASHION_TEST_BITS}: "
            "these are not the Fashion-MNIST test images in file order"
        )
    return bits.reshape(test.shape)


def positions(x: Array) -> NDArray[np.float64]:
    """A number in [0, 1) for every row, uniform over contents, from the row's values alone (not from their dtype)."""
    rows = x.reshape(len(x), -1)
    out = np.empty(len(rows))
    for i, row in enumerate(rows):
        # Adding zero turns -0.0 into 0.0: equal values, equal bytes.
        canonical = (row.astype("<f8") + 0.0).tobytes()
        out[i] = int.from_bytes(hashlib.blake2b(canonical, digest_size=6).digest()) / 2**48
    return out


def intensities(name: str, x: Array) -> Array:
    """x in [0, 1], to be binarised: floats as they are, integers as 8-bit levels divided by 255."""
    top = 1.0 if x.dtype.kind == "f" else 255.0
    if x.min() < 0 or x.max() > top:
        raise InvalidDataset(
            f"{name}: values to binarise are floats in [0, 1] or integers in 0 ... 255, "
            f"here they are {x.dtype} from {x.min()} to {x.max()}"
        )
    return x / top


def binarize(x: Array, first_index: int) -> NDArray[np.uint8]:
    """One b ~ Bernoulli(x) a row (n, *event_shape), a pure function of the row and of its index."""
    keys = Keys.of(BINARIZATION_SEED, np.arange(first_index, first_index + len(x)))
    u = noise.uniforms(keys, Stream.BINARIZATION, x[0].size)
    return (u.reshape(x.shape) < x).astype(np.uint8)


def _first(parts: Labels | Split, rows: int) -> dict[str, Any]:
    return {part: getattr(parts, part)[:rows] for part in _HELD_OUT}
