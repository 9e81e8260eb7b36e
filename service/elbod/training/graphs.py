"""Training steps as CUDA graphs: one launch in place of a thousand."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from elbod.training.randomness import dropout_state, set_dropout_state
from elbod.training.step import Batch, Step

logger = logging.getLogger(__name__)

# Before a capture, so that libraries have chosen their kernels and made their workspaces.
_WARM_UPS = 3


class CapturedStep:
    """Takes the steps of a `Step`, captured once for each of the two objectives; after a capture that fails, eagerly.

    Noise and bits are drawn before a graph runs, and copied to where it reads them. Dropout draws inside of it, from
    torch's default generator, which every graph registers: a replay moves its state on as an eager step would. So on a
    GPU as on a CPU the generators' states between two steps are all that has to be saved.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device = step, device
        self._captured: dict[bool, tuple[Batch, torch.cuda.CUDAGraph]] = {}
        self._failed = False

    def take(self, batch: Batch) -> None:
        kind = batch.is_importance_weighted
        if kind not in self._captured and not self._failed:
            self._capture(kind, batch)
        if self._failed:
            self._step.take(batch)
            return
        inputs, graph = self._captured[kind]
        for kept, given in zip(_tensors(inputs), _tensors(batch), strict=True):
            kept.copy_(given)
        graph.replay()

    def _capture(self, kind: bool, batch: Batch) -> None:
        """A graph and its inputs, or a line in the log. Neither weights nor random states change."""
        label = None if batch.label is None else batch.label.clone()
        inputs, graph = Batch(batch.x.clone(), batch.noise.clone(), label), torch.cuda.CUDAGraph()
        dropout = dropout_state(self._device)
        with torch.cuda.device(self._device):
            try:
                self._record(graph, inputs)
                self._captured[kind] = inputs, graph
            except RuntimeError as error:
                # Code that waits for the device, or branches on its values, cannot be captured. What fails for another
                # reason fails again eagerly.
                self._failed = True
                cause = str(error.__context__ or error).partition("\n")[0]
                logger.warning("training steps run without a CUDA graph: %s", cause)
                # A broken capture leaves the default generator's state as if it were still captured; a copy's is not.
                generator = torch.cuda.default_generators[torch.cuda.current_device()]
                generator.graphsafe_set_state(generator.clone_state())
            finally:
                set_dropout_state(self._device, dropout)

    def _record(self, graph: torch.cuda.CUDAGraph, inputs: Batch) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            # One stream for the warm-ups and the capture: libraries keep a workspace for each.
            with torch.cuda.stream(stream), self._step.tally.idle():
                for _ in range(_WARM_UPS):
                    self._step.take(inputs)
                with _waiting_is_an_error():
                    self._step.take(inputs)
                # Other threads may use the device.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._step.take(inputs)
        finally:
            torch.cuda.current_stream().wait_stream(stream)


@contextlib.contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    """Raises RuntimeError where code waits for the device. Within a capture that would break the allocator's state."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        _set_sync_debug_mode("error")
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: str | int) -> None:
    with warnings.catch_warnings():
        # It says that it does not find every wait.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


def _tensors(batch: Batch) -> list[Tensor]:
    return [tensor for tensor in (batch.x, batch.noise, batch.label) if tensor is not None]
