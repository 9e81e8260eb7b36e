"""Network building blocks."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

Activation = Literal["relu", "silu", "gelu", "tanh"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: Activation) -> nn.Sequential:
    """Fully connected layers, (n, inputs) -> (n, outputs), an activation after every hidden one."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
