"""Where a model computes."""

import contextlib
import ctypes

import torch

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA if there is any), `cpu`, `cuda` or `cuda:N`. Raises ValueError if that is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not here: torch finds {torch.cuda.device_count()} CUDA devices")
    return device


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MB of freed memory for what is allocated next, arrays of up to 32 MB included.

    By default it returns them to the kernel, which clears every page again: a pass over many levels takes several times
    as long. These are the limits that glibc itself moves to after it has freed an array of 32 MB.
    """
    with contextlib.suppress(AttributeError, OSError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        allocator.mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)
