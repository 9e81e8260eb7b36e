"""Processes that train one model together, as `torchrun` starts them: each has a part of every batch.

All of them hold the same weights and draw the same random numbers; gradients are added up over the processes, so every
step is, up to rounding, the one that a single process would have taken. Nothing is pickled: what travels is tensors
and bytes.
"""

import contextlib
import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from elbod.training.errors import LostProcess

# The others wait this long while the first one evaluates or publishes. A process that ends is noticed at once.
_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Group:
    """Process `rank` of `size`. All of them must call the same methods in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, publishes and saves."""
        return self.rank == 0

    def shard(self, rows: int) -> slice:
        """This process's part of a batch."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, the same bytes in all of them."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _peers():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, in order; on the CPU and of one size."""
        if self.size == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        with _peers():
            dist.all_gather(gathered, tensor)
        return gathered

    def agree(self, content: bytes, what: str) -> None:
        """Raises LostProcess in every process unless all of them gave the same content."""
        if self.size == 1:
            return
        digest = torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)
        if any(not torch.equal(other, digest) for other in self.gather(digest)):
            raise LostProcess(f"process {self.rank}: the processes of this training differ in {what}")

    def share(self, content: bytes) -> bytes:
        """The first process's `content`."""
        if self.size == 1:
            return content
        length = torch.tensor([len(content)])
        with _peers():
            dist.broadcast(length, src=0)
            buffer = torch.zeros(int(length), dtype=torch.uint8)
            if self.first and content:
                buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if len(buffer):
                dist.broadcast(buffer, src=0)
        return buffer.numpy().tobytes()


def launched() -> tuple[int, int, int]:
    """(rank, local rank, size) by the launcher's variables; (0, 0, 1) without one."""
    rank, local, size = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    return (rank, local, size) if "RANK" in os.environ and size > 1 else (0, 0, 1)


_VARIABLES = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[Group]:
    """The group that the launcher started this process in, or a group of one. Raises LostProcess."""
    rank, _, size = launched()
    if size == 1:
        yield Group()
        return
    if dist.is_initialized():
        # By a launcher that makes the group as well, and ends it.
        yield Group(rank, size)
        return
    backend = "cpu:gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend += ",cuda:nccl"
    # Optimizers import this at their first use. Imported while there is a group it holds on to it, and the group's
    # threads live until the interpreter ends, which then is at times an abort (torch 2.13).
    importlib.import_module("torch._dynamo")
    with _peers():
        dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        cause = str(error).partition("\n")[0]
        raise LostProcess(
            f"process {os.environ.get('RANK')}: another process of this training ended, its own message says why "
            f"({cause})"
        ) from error
