"""The protocol of a backend."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbod.engine.programs import Drawn, Encoded, Inputs, Program
from elbod.generators.base import Generator
from elbod.generators.noise import Keys, Stream, Words

Array = NDArray[Any]


# Waits for outputs on their way to the host, and returns them.
Fetched = Callable[[], list[Array]]


class Table(Protocol):
    """Values of rows by their slots, on the device that computes."""

    def write(self, slots: Array | np.int64, values: Array | Tensor) -> None:
        """Set the rows at `slots`. Raises ValueError for values of another shape."""

    def take(self, slots: Array) -> Tensor:
        """The rows at `slots`, in that order."""

    def read(self, slots: Array) -> Array:
        """The same on the host."""

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` rows and keep those that are there."""


class Backend(Protocol):
    """Runs programs on one device."""

    device: torch.device
    # Whether the device computes while the calling thread continues.
    overlaps: bool
    # Candidates for the sizes of tiles, ascending: those that are proved, and those that time alone decides about.
    tiles: tuple[int, ...]
    wide_tiles: tuple[int, ...]

    def table(self, capacity: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Table:
        """A table of `capacity` rows of that shape."""

    def normals(
        self, keys: Keys, stream: Stream | Words, dimensions: int, size: int, first_block: Words | int = 0
    ) -> Tensor:
        """Standard normals (size, dimensions) float32 on the device: those of the keys from counter block `first_block`
        on, one or one a row, first, then zeros."""

    def uniforms(self, keys: Keys, shape: tuple[int, ...], size: int) -> Tensor:
        """Uniforms (size, *shape) float64 of the observation stream, then one half."""

    def encode(self, generator: Generator, inputs: Inputs) -> Encoded:
        """Run `ENCODE`; the outputs stay on the device."""

    def draw(self, generator: Generator, program: Program, inputs: Inputs) -> Drawn:
        """Run any other program; the outputs stay on the device."""

    def fetch(self, tensors: Sequence[Tensor]) -> Fetched:
        """Begin to bring outputs to the host. The call that is returned waits for them."""
