"""Programs on a GPU: captured once for each tile size, then replayed, with noise that is made on the device."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from elbod.engine import programs
from elbod.engine.backends.base import Array, Fetched
from elbod.engine.programs import ENCODE, Drawn, Encoded, Inputs, Program
from elbod.generators.base import Generator
from elbod.generators.noise import Keys, Stream, Words

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Runs before a capture, so that libraries have chosen their kernels and made their workspaces.
_WARM_UPS = 3
_LOW_BITS, _HIGH_BITS, _STREAM_BITS = np.uint64(0xFFFF_FFFF), np.uint64(32), np.uint64(24)


class DeviceTable:
    """Rows in memory of the device. Copies from the host are pinned, so that nobody waits for them."""

    def __init__(self, device: torch.device, capacity: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._values = torch.empty((capacity, *shape), dtype=getattr(torch, dtype.name), device=device)

    def write(self, slots: Array | np.int64, values: Array | Tensor) -> None:
        given = values if isinstance(values, Tensor) else on_device(values, self._values.device)
        if given.shape[1:] != self._values.shape[1:]:
            raise ValueError(f"rows of shape {tuple(given.shape[1:])}, not {tuple(self._values.shape[1:])}")
        index = on_device(np.atleast_1d(slots), self._values.device)
        self._values.index_copy_(0, index, given.to(self._values.dtype))

    def take(self, slots: Array) -> Tensor:
        return self._values.index_select(0, on_device(slots, self._values.device))

    def read(self, slots: Array) -> Array:
        return self.take(slots).cpu().numpy()

    def grow(self, capacity: int) -> None:
        grown = torch.empty((capacity, *self._values.shape[1:]), dtype=self._values.dtype, device=self._values.device)
        grown[: len(self._values)] = self._values
        self._values = grown


def on_device(values: Array, device: torch.device) -> Tensor:
    """A copy on the device; from pinned memory where the device is not the host."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def packed(keys: Keys, stream: Stream | Words, first_block: Words | int = 0) -> Array:
    """Noise keys as the words of their counters and keys, (6, n) int64: seed low and high, index low, draw, the stream
    with the index's high bits, and the first counter block."""
    high = np.left_shift(np.asarray(stream, np.uint64), _STREAM_BITS) | (keys.index >> _HIGH_BITS)
    first = np.broadcast_to(np.asarray(first_block, np.uint64), keys.draw.shape)
    rows = (keys.seed & _LOW_BITS, keys.seed >> _HIGH_BITS, keys.index & _LOW_BITS, keys.draw, high, first)
    return np.stack(rows).astype(np.int64)


class Captured(Generic[T]):
    """A pure function of a tile as a CUDA graph: its inputs are copied to where the graph reads them, and its outputs
    are overwritten by the next replay."""

    def __init__(self, function: Callable[[Inputs], T], inputs: Inputs) -> None:
        self._inputs = _mapped(torch.clone, inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                function(self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads keep computing and loading models.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = function(self._inputs)

    def __call__(self, inputs: Inputs) -> T:
        for kept, given in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._outputs


class CudaBackend:
    """CUDA graphs, and eager PyTorch for programs that cannot be captured."""

    overlaps = True
    tiles: tuple[int, ...] = (64, 256, 1024)
    wide_tiles: tuple[int, ...] = (4096, 8192)

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._capturing = threading.Lock()
        self._captured: WeakKeyDictionary[Generator, dict[tuple[Program, int], Callable[[Inputs], Any]]]
        self._captured = WeakKeyDictionary()

    def table(self, capacity: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceTable:
        return DeviceTable(self.device, capacity, shape, dtype)

    def normals(
        self, keys: Keys, stream: Stream | Words, dimensions: int, size: int, first_block: Words | int = 0
    ) -> Tensor:
        values = torch.zeros(size, dimensions, device=self.device)
        self._fill(values, keys, stream, first_block, gaussian=True)
        return values

    def uniforms(self, keys: Keys, shape: tuple[int, ...], size: int) -> Tensor:
        values = torch.full((size, int(np.prod(shape))), 0.5, dtype=torch.float64, device=self.device)
        self._fill(values, keys, Stream.OBSERVATION, 0, gaussian=False)
        return values.reshape(size, *shape)

    def _fill(
        self, values: Tensor, keys: Keys, stream: Stream | Words, first_block: Words | int, *, gaussian: bool
    ) -> None:
        # Triton comes with PyTorch's builds for CUDA alone.
        from elbod.engine.backends.philox import fill

        fill(on_device(packed(keys, stream, first_block), self.device), values[: len(keys)], gaussian=gaussian)

    @torch.inference_mode()
    def encode(self, generator: Generator, inputs: Inputs) -> Encoded:
        encoded: Encoded = self._run(generator, ENCODE, inputs, lambda given: programs.encode(generator, given))
        return encoded

    @torch.inference_mode()
    def draw(self, generator: Generator, program: Program, inputs: Inputs) -> Drawn:
        drawn: Drawn = self._run(generator, program, inputs, lambda given: programs.draw(generator, program, given))
        return drawn

    def _run(self, generator: Generator, program: Program, inputs: Inputs, function: Callable[[Inputs], Any]) -> Any:
        captured = self._captured.setdefault(generator, {})
        key = program, len(_tensors(inputs)[0])
        if key not in captured:
            with self._capturing:
                captured[key] = _capture(program, function, inputs)
        return captured[key](inputs)

    def fetch(self, tensors: Sequence[Tensor]) -> Fetched:
        copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def arrays() -> list[Array]:
            arrived.synchronize()
            return [copy.numpy() for copy in copies]

        return arrays


def _capture(program: Program, function: Callable[[Inputs], Any], inputs: Inputs) -> Callable[[Inputs], Any]:
    try:
        return Captured(function, inputs)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # Code that waits for the device, or branches on its values, cannot be captured. It may fail for another reason.
        function(inputs)
        logger.warning("program %s runs without a CUDA graph: %s", program, error)
        return function


def _tensors(inputs: Inputs) -> list[Tensor]:
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(collect, inputs)
    return found


def _mapped(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Inputs with `function` of every tensor."""

    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return function(value)
        return {name: function(tensor) for name, tensor in value.items()} if isinstance(value, dict) else value

    return Inputs(**{field.name: of(getattr(inputs, field.name)) for field in fields(inputs)})
