"""Network building blocks."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

Activation = Literal["relu", "silu", "gelu", "tanh", "gated"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


def check_network_sizes(
    latent_dim: int, hidden: Sequence[int], channels: Sequence[int], blocks: int, dropout: float
) -> None:
    """Raises ValueError for sizes that no network can have."""
    if min(latent_dim, blocks, *hidden, *channels) < 1:
        raise ValueError(
            f"sizes must be positive: latent_dim={latent_dim}, hidden={hidden}, channels={channels}, blocks={blocks}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int, activation: Activation, dropout: float = 0.0
) -> nn.Sequential:
    """Fully connected layers, (n, inputs) -> (n, outputs), an activation after every hidden one.

    `gated` layers are h = (A x + a) * sigmoid(B x + b), with twice the weights of the others (Dauphin et al., "Language
    modeling with gated convolutional networks", ICML 2017; Tomczak and Welling, AISTATS 2018).
    With `dropout` > 0 that share of every hidden layer's units is zeroed while training (Srivastava et al., JMLR 2014).
    """
    layers: list[nn.Module] = []
    for width in hidden:
        if activation == "gated":
            layers += [nn.Linear(inputs, 2 * width), nn.GLU()]
        else:
            layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
