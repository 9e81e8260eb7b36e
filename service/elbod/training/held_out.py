"""The test rows of a published version again, exactly as its worker cut them off."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from elbod.generators.likelihoods import make_likelihood
from elbod.training import datasets
from elbod.training.datasets import Array, Dataset
from elbod.training.errors import InvalidDataset
from elbod.training.recipes import Recipe
from elbod.training.splits import intensities
from elbod.training.worker import cut
from elbod_store import Manifest


@dataclass(frozen=True)
class Rows:
    """Rows in a model's data units, their class numbers where they are known, and in words what they are."""

    x: Array
    label: NDArray[np.int64] | None
    origin: str


def rows_to_score(manifest: Manifest, data: str | None, *, binarized: bool = False) -> Rows:
    """The version's test rows; of `data` that it was not trained on, all rows.

    Rows to be `binarized` are wanted in [0, 1]: integers beyond bits are 8-bit levels, as they are in training.

    Raises InvalidDataset: no such data, or the data that it was trained on have changed.
    """
    record = manifest.training.get("data")
    known: Mapping[str, Any] = record if isinstance(record, dict) else {}
    source = data if data is not None else _recipe(manifest).data
    dataset = datasets.load(source, image_size(manifest) if datasets.is_image_folder(source) else None)
    if dataset.digest != known.get("digest"):
        if data is None:
            raise InvalidDataset(
                f"{source} is no longer the data that {manifest.name}@{manifest.version} was trained on: "
                "its test rows cannot be told; score all rows of a data set with --data"
            )
        origin = f"all {len(dataset.x):,} rows of {dataset.name}"
        label = _class_numbers(manifest, dataset)
        if binarized and dataset.x.dtype.kind in "iu" and dataset.x.max() > 1:
            return Rows(intensities(dataset.name, dataset.x), label, f"{origin}, bytes divided by 255")
        return Rows(as_requested(dataset.x), label, origin)
    recipe = _recipe(manifest)
    likelihood = make_likelihood(manifest.likelihood, dataset.event_shape, manifest.levels)
    parts = cut(recipe, dataset, likelihood)
    test, label = parts.test, None if parts.labels is None or manifest.labels is None else parts.labels.test
    return Rows(
        test,
        label,
        f"the {len(test):,} test rows of {dataset.name}, which neither trained nor calibrated the model",
    )


def _class_numbers(manifest: Manifest, dataset: Dataset) -> NDArray[np.int64] | None:
    """The model's class numbers of the data's labels; None where either has none. Raises InvalidDataset."""
    if manifest.labels is None or dataset.y is None:
        return None
    numbers = {name: number for number, name in enumerate(manifest.labels)}
    values, places = np.unique(dataset.y, return_inverse=True)
    names = [dataset.label_name(value) for value in values]
    for value, label in zip(values, names, strict=True):
        if label not in numbers:
            row = int(np.argmax(dataset.y == value))
            raise InvalidDataset(
                f"{dataset.name}: y[{row}] is {label}, no label of {manifest.name}@{manifest.version}: "
                f"it has {', '.join(manifest.labels[:20])}"
            )
    found: NDArray[np.int64] = np.array([numbers[name] for name in names], np.int64)[places]
    return found


def as_requested(x: Array) -> Array:
    """The same values in the narrowest dtype of a request's x that holds all of the file's dtype."""
    dtype = next(dtype for dtype in (np.uint8, np.int64, np.float32, np.float64) if np.can_cast(x.dtype, dtype))
    return np.ascontiguousarray(x, dtype)


def image_size(manifest: Manifest) -> int | None:
    """Pixels of the squares that the model's own images were made; None if they were left as they are."""
    recipe = manifest.training.get("recipe")
    size = recipe.get("image_size") if isinstance(recipe, dict) else None
    return size if isinstance(size, int) else None


def _recipe(manifest: Manifest) -> Recipe:
    try:
        recipe: Recipe = TypeAdapter(Recipe).validate_python(manifest.training.get("recipe"))
    except ValidationError as error:
        raise InvalidDataset(
            f"{manifest.name}@{manifest.version} does not say how its rows were split: give rows with --data"
        ) from error
    return recipe
