"""Convolutional residual networks over images (He et al., "Identity mappings in deep residual networks", ECCV 2016).

Stage i works at 1/2^(i+1) of the image's height and width, rounded up, with `channels[i]` channels. Nothing is
normalised over a batch, so rows stay independent. Images are (n, c, h, w) inside; event shapes are (h, w) or (c, h, w).
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

L = TypeVar("L", bound=nn.Module)


def image_shape(event_shape: Sequence[int]) -> tuple[int, int, int]:
    """(c, h, w). Raises ValueError for events that are no images."""
    if len(event_shape) not in (2, 3):
        raise ValueError(f"convolutions need events of shape (h, w) or (c, h, w), not {tuple(event_shape)}")
    c, h, w = (1, *event_shape)[-3:]
    return c, h, w


def stage_sizes(event_shape: Sequence[int], stages: int) -> list[tuple[int, int]]:
    """(height, width) of each stage. Raises ValueError where an image is too small for so many."""
    _, h, w = image_shape(event_shape)
    if stages < 1 or min(h, w) < 2**stages:
        raise ValueError(f"images of {h} x {w} cannot be halved {stages} times: channels has one entry a stage")
    sizes = []
    for _ in range(stages):
        h, w = (h + 1) // 2, (w + 1) // 2
        sizes.append((h, w))
    return sizes


class ResidualBlock(nn.Module):
    """h + f(h), f two 3x3 convolutions after an activation each; f begins as zero, so the block as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            silent(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, h: Tensor) -> Tensor:
        branch: Tensor = self.body(h)
        return h + branch


def widened(values: Tensor) -> Tensor:
    """The values in float32 where layers ran in a narrower type, as they may while training."""
    return values.float() if values.dtype == torch.bfloat16 else values


def silent(layer: L) -> L:
    """The layer with weights of zero: what it adds to begins as if it were not there."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ImageEncoder(nn.Module):
    """An image (n, *event_shape), flat or not, to its feature maps, the finest first."""

    def __init__(self, event_shape: Sequence[int], channels: Sequence[int], blocks: int, planes: int = 0) -> None:
        """`planes` further input planes stand beside the image's channels."""
        super().__init__()
        self._image = image_shape(event_shape)
        stage_sizes(event_shape, len(channels))
        inputs = self._image[0] + planes
        stages = []
        for i, width in enumerate(channels):
            # The first kernel is larger: a pixel alone says little.
            halve = nn.Conv2d(inputs, width, 5 if i == 0 else 3, stride=2, padding=2 if i == 0 else 1)
            stages.append(nn.Sequential(halve, *(ResidualBlock(width) for _ in range(blocks))))
            inputs = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor, planes: Tensor | None = None) -> list[Tensor]:
        h = x.reshape(len(x), *self._image)
        if planes is not None:
            h = torch.cat([h, planes[:, :, None, None].expand(-1, -1, *h.shape[2:])], dim=1)
        h = h.contiguous(memory_format=torch.channels_last)
        features = []
        for stage in self.stages:
            h = stage(h)
            features.append(h)
        return features


class Upsample(nn.Module):
    """Twice the height and width, cut to `size`: each position's four children from a 1x1 convolution (Shi et al.,
    "Real-time single image and video super-resolution", CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self._size = size
        self.children_of = nn.Conv2d(inputs, 4 * outputs, 1)

    def forward(self, h: Tensor) -> Tensor:
        height, width = self._size
        return F.pixel_shuffle(self.children_of(h), 2)[..., :height, :width]


class PixelHead(nn.Module):
    """The finest feature map to (n, *event_shape, parameters), float32."""

    def __init__(self, inputs: int, event_shape: Sequence[int], parameters: int) -> None:
        super().__init__()
        self._event_shape = tuple(event_shape)
        c, h, w = image_shape(event_shape)
        width = max(16, inputs // 2)
        self._channels = parameters
        self.body = nn.Sequential(
            nn.SiLU(),
            Upsample(inputs, width, (h, w)),
            nn.SiLU(),
            nn.Conv2d(width, c * parameters, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        pixels: Tensor = self.body(h)
        pixels = pixels.unflatten(1, (-1, self._channels)).movedim(2, -1)
        return widened(pixels).reshape(len(h), *self._event_shape, self._channels)


class ConvolutionalEncoder(nn.Module):
    """(n, event_dims) to (n, outputs): residual stages, then one linear layer over the coarsest features."""

    def __init__(
        self, event_shape: Sequence[int], channels: Sequence[int], blocks: int, outputs: int, planes: int = 0
    ) -> None:
        super().__init__()
        self.image = ImageEncoder(event_shape, channels, blocks, planes)
        area = math.prod(stage_sizes(event_shape, len(channels))[-1])
        self.head = nn.Sequential(nn.SiLU(), nn.Flatten(), nn.Linear(channels[-1] * area, outputs))

    def forward(self, x: Tensor, planes: Tensor | None = None) -> Tensor:
        outputs: Tensor = self.head(self.image(x, planes)[-1])
        return outputs


class ConvolutionalDecoder(nn.Module):
    """(n, inputs) to (n, *event_shape, parameters), the encoder's stages backwards."""

    def __init__(
        self, inputs: int, event_shape: Sequence[int], channels: Sequence[int], blocks: int, parameters: int
    ) -> None:
        super().__init__()
        sizes = stage_sizes(event_shape, len(channels))
        self._coarsest = (channels[-1], *sizes[-1])
        self.stem = nn.Linear(inputs, math.prod(self._coarsest))
        layers: list[nn.Module] = []
        for i in reversed(range(len(channels))):
            layers += [ResidualBlock(channels[i]) for _ in range(blocks)]
            if i:
                layers.append(Upsample(channels[i], channels[i - 1], sizes[i - 1]))
        self.body = nn.Sequential(*layers)
        self.head = PixelHead(channels[0], event_shape, parameters)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z).unflatten(1, self._coarsest).contiguous(memory_format=torch.channels_last)
        outputs: Tensor = self.head(self.body(h))
        return outputs
