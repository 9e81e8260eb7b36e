"""Where a model computes."""

import torch


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
