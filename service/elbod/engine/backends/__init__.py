"""Where programs run and tables live: one small protocol, one module a backend."""

import torch

from elbod.engine.backends.base import Backend
from elbod.engine.backends.cuda import CudaBackend
from elbod.engine.backends.eager import EagerBackend
from elbod.errors import StartupError
from elbod.generators.device import choose_device, keep_freed_memory

__all__ = ["Backend", "CudaBackend", "EagerBackend", "open_backend", "pin_thread"]


def pin_thread() -> None:
    """One intra-op thread for the calling thread. Whatever runs a model calls it first: matrix products of a thread
    that never asked are split over all cores, and bytes depend on the split.
    """
    torch.set_num_threads(1)


def open_backend(name: str) -> Backend:
    """The backend of a device by name, with what changes bytes fixed for the process: neither TF32 nor autotuning, and
    one intra-op thread, also for what models compute once at load.

    Raises StartupError.
    """
    try:
        device = choose_device(name)
    except ValueError as error:
        raise StartupError(str(error)) from error
    pin_thread()
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    return CudaBackend(device) if device.type == "cuda" else EagerBackend()
