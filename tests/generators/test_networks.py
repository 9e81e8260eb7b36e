import pytest
import torch
from torch import nn

from elbod.generators.networks import ACTIVATIONS, mlp


def test_a_gated_layer_is_one_linear_map_times_the_sigmoid_of_another():
    network = mlp(5, (4,), 3, "gated")
    first, _, last = network
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))

    (a, b), (shift_a, shift_b) = first.weight.chunk(2), first.bias.chunk(2)
    h = (x @ a.mT + shift_a) * torch.sigmoid(x @ b.mT + shift_b)

    torch.testing.assert_close(network(x), h @ last.weight.mT + last.bias)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "gated"])
def test_every_activation_gives_the_widths_that_were_asked_for(activation):
    network = mlp(5, (4, 6), 3, activation, dropout=0.5).eval()
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))

    assert network(x).shape == (7, 3)
    assert [tuple(m.weight.shape) for m in network if isinstance(m, nn.Linear)][-1] == (3, 6)
    assert sum(isinstance(m, nn.Dropout) for m in network) == 2
