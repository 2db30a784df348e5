"""The levels of a UNet, and the paths by which the image enters and leaves at each size.

    input   skip: h + W·image      residual: image, h ← (conv(image) + h)/r     (image at half size)
    output  skip: image + head(h)  residual: image, h ← (conv(image) + h)/r     (at twice the size)

Song et al. 2021, appendix H.1, after StyleGAN2 (Karras et al. 2020, §4.1); r = √2 where sums of two
branches are rescaled, else 1.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import convolution, normalization
from .images import Images, Vectors
from .resample import BOX, Downsample, Taps, Upsample, double_size, half_size

Slot: TypeAlias = nn.Module | None
"""A module of a level, or None where there is none."""


class Head(nn.Module):
    """conv(φ(norm(h))): features to an image."""

    def __init__(self, channels: int, out: int, *, groups: int | None, scale: float, dims: int):
        super().__init__()
        self.norm = normalization(channels, groups)
        self.conv = convolution(channels, out, scale=scale, dims=dims)

    def forward(self, h: Images) -> Images:
        """Return the image."""
        image: Tensor = self.conv(F.silu(self.norm(h)))
        return image


class SkipInput(nn.Module):
    """Add the shrunken input to the features by a 1×1 convolution, or concatenate it."""

    def __init__(self, image: int, channels: int, *, taps: Taps, cat: bool, dims: int) -> None:
        super().__init__()
        self.conv = convolution(image, channels, 1, dims=dims)
        self.taps, self.cat = taps or BOX, cat

    def forward(self, image: Images, h: Images) -> tuple[Images, Images]:
        """Return the smaller image, and the features with it."""
        image = half_size(image, self.taps)
        entering: Tensor = self.conv(image)
        return image, torch.cat([entering, h], dim=1) if self.cat else entering + h


class ResidualInput(nn.Module):
    """Shrink the features so far, from the image on, by a convolution, and add them."""

    def __init__(self, image: int, channels: int, *, taps: Taps, rescale: bool, dims: int) -> None:
        super().__init__()
        self.shrink = Downsample(image, channels, taps=taps, dims=dims)
        self.divisor = math.sqrt(2) if rescale else 1.0

    def forward(self, image: Images, h: Images) -> tuple[Images, Images]:
        """Return the sum twice: as the next image and as the features."""
        total = (self.shrink(image) + h) / self.divisor
        return total, total


class SkipOutput(nn.Module):
    """Add each level's own image to the enlarged sum of those below."""

    def __init__(self, head: Head, *, taps: Taps) -> None:
        super().__init__()
        self.head, self.taps = head, taps or BOX

    def forward(self, image: Images | None, h: Images) -> tuple[Images, Images]:
        """Return the sum of images, and the features as they were."""
        own: Tensor = self.head(h)
        return own if image is None else double_size(image, self.taps) + own, h


class ResidualOutput(nn.Module):
    """Add the enlarged features of the level below to this level's."""

    def __init__(self, start: Head | None, grow: Upsample | None, *, rescale: bool) -> None:
        super().__init__()
        self.start, self.grow = start, grow
        self.divisor = math.sqrt(2) if rescale else 1.0

    def forward(self, image: Images | None, h: Images) -> tuple[Images, Images]:
        """Return the image for the next level to enlarge, and the features."""
        if self.grow is None or image is None:
            assert self.start is not None
            return self.start(h), h
        total = (self.grow(image) + h) / self.divisor
        return total, total


class AttendedBlock(nn.Module):
    """A residual block, then attention."""

    def __init__(self, block: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, h: Images, embedding: Vectors) -> Images:
        """Return the features."""
        attended: Tensor = self.attention(self.block(h, embedding))
        return attended


class DownLevel(nn.Module):
    """Residual blocks at one size, each with attention or without, then half the size."""

    def __init__(
        self, blocks: Sequence[nn.Module], attentions: Sequence[nn.Module], shrink: Slot, join: Slot
    ) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.shrink, self.join = shrink, join

    def forward(self, image: Images, h: Images, embedding: Vectors) -> tuple[Images, list[Tensor]]:
        """Return the image for the next level, and the features for the way up, the next last."""
        skips = []
        for i, block in enumerate(self.blocks):
            h = block(h, embedding)
            h = self.attentions[i](h) if self.attentions else h
            skips.append(h)
        if self.shrink is not None:
            h = self.shrink(h, embedding)
            if self.join is not None:
                image, h = self.join(image, h)
            skips.append(h)
        return image, skips


class UpLevel(nn.Module):
    """Residual blocks at one size, each with features of the way down, then twice the size."""

    def __init__(
        self, blocks: Sequence[nn.Module], attention: Slot, output: Slot, grow: Slot
    ) -> None:
        super().__init__()
        self.blocks, self.attention = nn.ModuleList(blocks), attention
        self.output, self.grow = output, grow

    def forward(
        self, image: Images | None, h: Images, skips: list[Tensor], embedding: Vectors
    ) -> tuple[Images | None, Images]:
        """Return the output so far and the features; take the skips that are used."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        h = self.attention(h) if self.attention else h
        if self.output is not None:
            image, h = self.output(image, h)
        return image, self.grow(h, embedding) if self.grow else h
