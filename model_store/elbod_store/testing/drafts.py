"""Small valid drafts, and damage to bytes."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypedDict

from elbod_store import (
    Draft,
    ModelStore,
)


class Signature(TypedDict):
    who: str
    why: str


WHO: Signature = {"who": "ada", "why": "a test"}


def safetensors_bytes(fill: int = 0, size: int = 64) -> bytes:
    """A safetensors file with one uint8 tensor of `size` equal bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([fill % 256]) * size


def a_draft(name: str = "digits", fill: int = 0, **changes: Any) -> Draft:
    """A small valid draft; `fill` makes its weights differ."""
    draft = Draft(
        name=name,
        family="vae",
        spec={"hidden": [64, 32], "latent_dim": 8, "prior": {"family": "normal"}},
        likelihood="bernoulli",
        event_shape=(8, 8),
        binarization="stochastic",
        weights=safetensors_bytes(fill),
        reference=safetensors_bytes(fill, size=8),
        calibration=safetensors_bytes(fill, size=16),
        metrics={"elbo": -20.25, "standard_error": 0.125, "iwae": None},
        training={"seed": 1, "curve": [-30.0, -25.5]},
        card="# Digits\n\nDrawn by hand; a nota bene: \N{GREEK SMALL LETTER MU}.",
    )
    return replace(draft, **changes)


def assert_complete(store: ModelStore, name: str = "digits") -> list[int]:
    """Read and verify everything that is visible of a model; its live versions."""
    versions = store.versions(name)
    for version in versions:
        for blob in store.manifest(name, version).blobs:
            assert len(store.read(blob)) == blob.size
    return versions


def flips(raw: bytes, every: int) -> Iterator[tuple[int, bytes]]:
    """`raw` with one bit flipped, at every `every`-th byte and the last."""
    for index in {*range(0, len(raw), every), len(raw) - 1}:
        yield index, raw[:index] + bytes([raw[index] ^ (1 << index % 8)]) + raw[index + 1 :]
