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


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int, activation: Activation, dropout: float = 0.0
) -> nn.Sequential:
    """Fully connected layers, (n, inputs) -> (n, outputs), an activation after every hidden one.

    With `dropout` > 0 that share of every hidden layer's units is zeroed while training (Srivastava et al., JMLR 2014).
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
