"""What a result was asked by and what it was, so that anybody can ask again and compare bytes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A verb, its fields with the version that answered, and its arrays as they were sent."""

    verb: str
    fields: Mapping[str, Any]
    arrays: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """`inputs` and `outputs` are the sha256 of each array by name: dtype, shape and bytes.

    The same request to a server of the same fingerprint gives outputs of the same sha256, unless the model is not
    reproducible.
    """

    verb: str
    fields: Mapping[str, Any]
    model: str
    digest: str
    fingerprint: str
    reproducible: bool
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    arrays: Mapping[str, Array] = field(repr=False, compare=False)

    def to_json(self) -> str:
        """Everything but the arrays, as one JSON object."""
        plain = {name: value for name, value in vars(self).items() if name != "arrays"}
        return json.dumps({"schema": SCHEMA, **plain}, indent=1)

    def save(self, path: str | Path) -> None:
        """Write `path`, JSON, and beside it the input arrays, if there are any, as an .npz of the same name."""
        path = Path(path)
        if self.arrays:
            # NumPy before 2.1 would store `allow_pickle=False` as one more array; numbers are never pickled.
            np.savez(path.with_suffix(".npz"), **self.arrays)  # type: ignore[arg-type]
        path.write_text(self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Receipt":
        """What `save` wrote. Raises ValueError if it is no receipt, or its arrays are not those of the receipt."""
        path = Path(path)
        try:
            plain = json.loads(path.read_text())
            if plain.pop("schema") != SCHEMA:
                raise ValueError(f"{path} is a receipt of another version of this package")
            arrays: dict[str, Array] = {}
            if plain["inputs"]:
                with np.load(path.with_suffix(".npz"), allow_pickle=False) as found:
                    arrays = {name: found[name] for name in plain["inputs"]}
            receipt = cls(**plain, arrays=arrays)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no receipt: {error}") from error
        if sums(arrays) != dict(receipt.inputs):
            raise ValueError(f"{path.with_suffix('.npz')} does not hold the arrays of the receipt")
        return receipt


def sums(arrays: Mapping[str, Array]) -> dict[str, str]:
    """sha256 by name of dtype, shape and little-endian bytes."""
    found = {}
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        sha = hashlib.sha256(f"{little.dtype.str}{array.shape}".encode())
        sha.update(little.data if little.nbytes else b"")
        found[name] = sha.hexdigest()
    return found
