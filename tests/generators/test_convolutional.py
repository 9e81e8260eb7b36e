"""Convolutional networks over images of any size and number of channels."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elbod.generators.convolutional import (
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    ImageEncoder,
    Upsample,
    stage_sizes,
)

shapes = st.one_of(
    st.tuples(st.integers(4, 13), st.integers(4, 13)),
    st.tuples(st.integers(1, 3), st.integers(4, 13), st.integers(4, 13)),
)


@settings(max_examples=30)
@given(shapes, st.integers(1, 3))
def test_any_image_is_encoded_to_a_vector_and_decoded_to_its_own_shape(shape: tuple[int, ...], parameters: int) -> None:
    encoder = ConvolutionalEncoder(shape, (3, 5), 1, outputs=4)
    decoder = ConvolutionalDecoder(4, shape, (3, 5), 1, parameters)
    z = encoder(torch.randn(2, *shape).flatten(1))
    assert z.shape == (2, 4)
    assert decoder(z).shape == (2, *shape, parameters)


@settings(max_examples=30)
@given(shapes)
def test_stages_halve_and_round_up(shape: tuple[int, ...]) -> None:
    features = ImageEncoder(shape, (3, 5), 1)(torch.randn(2, *shape))
    h, w = shape[-2:]
    assert (
        [tuple(f.shape[2:]) for f in features]
        == stage_sizes(shape, 2)
        == [
            ((h + 1) // 2, (w + 1) // 2),
            ((h + 3) // 4, (w + 3) // 4),
        ]
    )


def test_channels_of_the_event_are_channels_of_the_image() -> None:
    """The parameters of channel c come from output planes of c alone: (c, h, w) is neither mixed up nor transposed."""
    decoder = ConvolutionalDecoder(2, (3, 4, 6), (4,), 1, parameters=2)
    last = decoder.head.body[-1]
    assert isinstance(last, torch.nn.Conv2d)
    with torch.no_grad():
        last.weight.zero_()
        assert last.bias is not None
        last.bias.copy_(torch.arange(6.0))
    outputs = decoder(torch.zeros(1, 2))[0]
    for c in range(3):
        for parameter in range(2):
            assert (outputs[c, :, :, parameter] == 2 * c + parameter).all()


def test_upsampling_puts_children_beside_each_other_and_cuts_what_is_too_much() -> None:
    layer = Upsample(1, 1, (3, 3))
    with torch.no_grad():
        layer.children_of.weight.copy_(torch.arange(1.0, 5.0).reshape(4, 1, 1, 1))
        assert layer.children_of.bias is not None
        layer.children_of.bias.zero_()
    out = layer(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]]))[0, 0]
    assert torch.equal(out, torch.tensor([[1.0, 2.0, 10.0], [3.0, 4.0, 30.0], [100.0, 200.0, 1000.0]]))


def test_a_plane_stands_beside_the_pixels_everywhere() -> None:
    """An extra input plane is seen by every position, and rows keep their own."""
    torch.manual_seed(0)
    encoder = ImageEncoder((6, 6), (4,), 1, planes=2)
    x = torch.randn(2, 6, 6)
    same = encoder(x, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))[0]
    other = encoder(x, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))[0]
    assert torch.equal(same[0], other[0])
    assert (same[1] != other[1]).flatten(1).any(0).all()


@pytest.mark.parametrize(("shape", "stages"), [((3, 9), 2), ((28, 28), 5), ((8, 8), 0)])
def test_images_too_small_for_their_stages_are_refused(shape: Any, stages: int) -> None:
    with pytest.raises(ValueError, match="cannot be halved"):
        stage_sizes(shape, stages)
