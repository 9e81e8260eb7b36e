"""PyTorch on the CPU, one operation after the other, with noise by numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbod.engine import programs
from elbod.engine.backends.base import Array, Fetched
from elbod.engine.programs import Drawn, Encoded, Inputs, Program
from elbod.generators.base import Generator
from elbod.generators.noise import Keys, Stream, Words, normals, uniforms


class HostTable:
    """Rows in an array of this process, which tensors share."""

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._values = np.empty((capacity, *shape), dtype)

    def write(self, slots: Array | np.int64, values: Array | Tensor) -> None:
        given = values.numpy() if isinstance(values, Tensor) else values
        if given.shape[1:] != self._values.shape[1:]:
            raise ValueError(f"rows of shape {given.shape[1:]}, not {self._values.shape[1:]}")
        self._values[slots] = given if slots.ndim else given[0]

    def take(self, slots: Array) -> Tensor:
        return torch.from_numpy(self._values.take(slots, axis=0))

    def read(self, slots: Array) -> Array:
        return self._values.take(slots, axis=0)

    def grow(self, capacity: int) -> None:
        grown = np.empty((capacity, *self._values.shape[1:]), self._values.dtype)
        grown[: len(self._values)] = self._values
        self._values = grown


class EagerBackend:
    """Eager PyTorch on the CPU."""

    # Small tiles stay in a core's cache; small networks, whose rows cost little next to a tile, want them wide.
    overlaps = False
    tiles: tuple[int, ...] = (4, 8, 16, 32)
    wide_tiles: tuple[int, ...] = (64, 128)

    device = torch.device("cpu")

    def table(self, capacity: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostTable:
        return HostTable(capacity, shape, dtype)

    def normals(
        self, keys: Keys, stream: Stream | Words, dimensions: int, size: int, first_block: Words | int = 0
    ) -> Tensor:
        values = np.zeros((size, dimensions), np.float32)
        values[: len(keys)] = normals(keys, stream, dimensions, first_block)
        return torch.from_numpy(values)

    def uniforms(self, keys: Keys, shape: tuple[int, ...], size: int) -> Tensor:
        values = np.full((size, *shape), 0.5)
        values[: len(keys)] = uniforms(keys, Stream.OBSERVATION, values[0].size).reshape(-1, *shape)
        return torch.from_numpy(values)

    @torch.inference_mode()
    def encode(self, generator: Generator, inputs: Inputs) -> Encoded:
        return programs.encode(generator, inputs)

    @torch.inference_mode()
    def draw(self, generator: Generator, program: Program, inputs: Inputs) -> Drawn:
        return programs.draw(generator, program, inputs)

    def fetch(self, tensors: Sequence[Tensor]) -> Fetched:
        arrays = [tensor.numpy() for tensor in tensors]
        return lambda: arrays
