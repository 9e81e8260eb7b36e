"""p(y) of the classes of a conditional model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_TOLERANCE = 1e-9


def uniform(classes: int) -> Tensor:
    """log p(y), (C,) float64, of equally frequent classes: before there are training rows."""
    return -torch.full((classes,), float(max(1, classes)), dtype=torch.float64).log()


def log_frequencies(label: Tensor | None, names: Sequence[str]) -> Tensor:
    """log of each class's frequency in the training rows, (C,) float64.

    Raises ValueError without labels, and for a class without a training row: its p(y) would be zero.
    """
    if label is None:
        raise ValueError("a conditional model is trained on labels, and the data have none")
    counts = torch.bincount(label, minlength=len(names)).double()
    if not (counts > 0).all():
        raise ValueError(f"label {names[int(counts.argmin())]!r} has no training row")
    return (counts / counts.sum()).log()


def check_probabilities(log_probs: Tensor) -> None:
    """Raises ValueError unless p(y) sums to 1: the sum over labels would be no bound of log p(x)."""
    total = math.exp(min(float(torch.logsumexp(log_probs.double(), 0)), 700.0))
    if not abs(total - 1) <= _TOLERANCE:
        raise ValueError(f"label_log_probs sum to {total:.6g} as probabilities, not to 1")
