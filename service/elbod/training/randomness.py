"""The random numbers of a training run: one seed, and from it one generator for each purpose."""

import hashlib

import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str) -> int:
    """One seed for each purpose of a run, so that no two of them share their numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]) >> 1


def random_generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose))


def draw_bits(x: Tensor, generator: torch.Generator) -> Tensor:
    """b ~ Bernoulli(x/255) of bytes, exactly, or b ~ Bernoulli(x) of floats in [0, 1]."""
    if x.dtype == torch.uint8:
        # u uniform on 0 ... 254: P(u < x) = x/255, without a float.
        return (torch.empty_like(x).random_(0, 255, generator=generator) < x).to(torch.uint8)
    return torch.bernoulli(x, generator=generator)


def dropout_state(device: torch.device) -> Tensor:
    """The state of torch's default generator, which dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_dropout_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
