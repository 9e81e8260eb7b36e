"""Residual networks of a noisy image, the time and perhaps a class, for diffusion models.

    h <- h + f(h, t),    f(h, t) = W2 drop(silu(normalize(W1 silu(normalize(h))) (1 + c(t)) + d(t)))

c and d are linear in features of the time t, which is 0 at the lowest and 1 at the highest level of noise (Perez et
al., "FiLM", AAAI 2018; Ho, Jain and Abbeel, NeurIPS 2020), and of the class y where there are classes. f, the outputs
and what a class adds begin as zero. Normalization is over one row, so rows stay independent.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elbod.generators.convolutional import Upsample, image_shape, silent, widened

_TIME_FEATURES = 16
_NORMALIZED_TOGETHER = 8
# Positions of a feature map that a dense layer may mix.
_MIXED_POSITIONS = 64


class TimeFeatures(nn.Module):
    """t (n,), and y (n,) of `classes`, to (n, width): cosines of multiples of pi t, one layer, and a row of a table."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(_TIME_FEATURES, width)
        self.classes = nn.Parameter(torch.zeros(classes, width)) if classes else None

    def forward(self, t: Tensor, y: Tensor | None) -> Tensor:
        multiples = torch.arange(_TIME_FEATURES, device=t.device, dtype=t.dtype)
        features: Tensor = self.layer(torch.cos(math.pi * t[:, None] * multiples))
        if self.classes is not None:
            assert y is not None
            features = features + nn.functional.embedding(y, self.classes)
        return nn.functional.silu(features)


class _DenseBlock(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.time = silent(nn.Linear(width, 2 * width))
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), silent(nn.Linear(width, width)))

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, offset = self.time(time).chunk(2, -1)
        branch: Tensor = self.second(self.first(h) * (1 + scale) + offset)
        return h + branch


class ResidualMLP(nn.Module):
    """(n, inputs) at times (n,), and classes (n,) if it has any, to (n, outputs), float32 or wider."""

    def __init__(self, inputs: int, width: int, blocks: int, outputs: int, dropout: float, classes: int = 0) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.time = TimeFeatures(width, classes)
        self.blocks = nn.ModuleList(_DenseBlock(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = silent(nn.Linear(width, outputs))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        time, h = self.time(t, y), self.stem(z)
        for block in self.blocks:
            h = block(h, time)
        return widened(self.head(nn.functional.silu(self.norm(h))))


class _ImageBlock(nn.Module):
    """A residual block of 3x3 convolutions; where the map is small, a dense layer over its positions too."""

    def __init__(self, channels: int, size: tuple[int, int], time_width: int, dropout: float) -> None:
        super().__init__()
        groups = math.gcd(_NORMALIZED_TOGETHER, channels)
        self.first = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
        )
        self.time = silent(nn.Linear(time_width, 2 * channels))
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), silent(nn.Conv2d(channels, channels, 3, padding=1)))
        positions = size[0] * size[1]
        self.mix = silent(nn.Linear(positions, positions)) if positions <= _MIXED_POSITIONS else None

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, offset = self.time(time)[:, :, None, None].chunk(2, 1)
        inner = self.first(h)
        h = h + self.second(inner * (1 + scale) + offset)
        if self.mix is not None:
            h = h + self.mix(inner.flatten(2)).unflatten(2, inner.shape[2:])
        return h


class ResidualUNet(nn.Module):
    """An image (n, *event_shape) at times (n,), and of classes (n,) if it has any, to (n, *event_shape, parameters),
    float32 or wider.

    Blocks of `patch` x `patch` pixels become channels first; stage i then has `channels[i]` channels at half the
    height and width of the one before (rounded up), and on the way back adds what it had (Ronneberger et al., "U-Net",
    MICCAI 2015). One stage is a plain residual network.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: Sequence[int],
        patch: int,
        blocks: int,
        parameters: int,
        dropout: float,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self._event_shape = tuple(event_shape)
        self._image = c, height, width = image_shape(event_shape)
        if height % patch or width % patch:
            raise ValueError(f"images of {height} x {width} have no blocks of {patch} x {patch} pixels: set patch")
        sizes = [(height // patch, width // patch)]
        for _ in channels[1:]:
            if min(sizes[-1]) < 2:
                raise ValueError(
                    f"images of {height} x {width} cannot be halved {len(channels) - 1} times: "
                    "channels has one entry a stage"
                )
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        time_width = 2 * channels[0]
        self.time = TimeFeatures(time_width, classes)
        self.fold, self.unfold = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        self.stem = nn.Conv2d(c * patch**2, channels[0], 3, padding=1)
        self.place = nn.Parameter(torch.zeros(1, channels[0], *sizes[0]))

        def stage(i: int) -> nn.ModuleList:
            return nn.ModuleList(_ImageBlock(channels[i], sizes[i], time_width, dropout) for _ in range(blocks))

        last = len(channels) - 1
        self.coarser = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1) for i in range(last)
        )
        self.finer = nn.ModuleList(Upsample(channels[i + 1], channels[i], sizes[i]) for i in range(last))
        self.down = nn.ModuleList(stage(i) for i in range(last + 1))
        self.up = nn.ModuleList(stage(i) for i in range(last))
        self.norm = nn.GroupNorm(math.gcd(_NORMALIZED_TOGETHER, channels[0]), channels[0])
        self.head = silent(nn.Conv2d(channels[0], c * parameters * patch**2, 3, padding=1))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        time = self.time(t, y)
        h = self.stem(self.fold(z.reshape(len(z), *self._image))) + self.place
        kept: list[Tensor] = []
        for i, blocks in enumerate(self.down):
            if i:
                kept.append(h)
                h = self.coarser[i - 1](h)
            h = _through(blocks, h, time)
        for i in reversed(range(len(self.up))):
            h = _through(self.up[i], self.finer[i](h) + kept[i], time)
        outputs: Tensor = self.unfold(self.head(nn.functional.silu(self.norm(h))))
        by_pixel = outputs.unflatten(1, (self._image[0], -1)).movedim(2, -1)
        return widened(by_pixel).reshape(len(z), *self._event_shape, by_pixel.shape[-1])


def _through(blocks: nn.Module, h: Tensor, time: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        h = block(h, time)
    return h
