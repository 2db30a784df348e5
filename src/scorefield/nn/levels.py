"""The levels of a UNet, and the paths by which the image enters and leaves at each size.

    input   skip: h + W·image      residual: image, h ← (conv(image) + h)/r     (image at half size)
    output  skip: image + head(h)  residual: image, h ← (conv(image) + h)/r     (at twice the size)

Song et al. 2021, appendix H.1, after StyleGAN2 (Karras et al. 2020, §4.1); r = √2 where sums of two
branches are rescaled, else 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import Form, convolution, convolved, normalization, rescaled
from .resample import BOX, Downsample, Upsample, downsample, upsample

Progressive: TypeAlias = Literal["none", "skip", "residual"]
Picture: TypeAlias = Float[Tensor, "batch _channels ..."]


class Head(nn.Module):
    """conv(φ(norm(h))): features to an image."""

    def __init__(
        self, channels: int, out: int, *, groups: int | None, scale: float, dims: int = 2
    ) -> None:
        super().__init__()
        self.norm = normalization(channels, groups)
        self.conv = convolution(channels, out, scale=scale, dims=dims)

    def forward(self, h: Picture, fused: bool = True) -> Picture:
        """The image."""
        return convolved(self.norm, self.conv, h, fused)


class SkipInput(nn.Module):
    """The shrunken input, by a 1×1 convolution, is added to the features or set beside them."""

    def __init__(
        self, image: int, channels: int, *, taps: Sequence[float] | None, cat: bool, dims: int = 2
    ) -> None:
        super().__init__()
        self.conv = convolution(image, channels, 1, dims=dims)
        self.taps, self.cat = taps or BOX, cat

    def forward(self, image: Picture, h: Picture) -> tuple[Picture, Picture]:
        """The smaller image, and the features that saw it."""
        image = downsample(image, self.taps)
        seen: Tensor = self.conv(image)
        return image, torch.cat([seen, h], dim=1) if self.cat else seen + h


class ResidualInput(nn.Module):
    """The features so far, from the image on, are shrunk by a convolution and added."""

    def __init__(
        self,
        image: int,
        channels: int,
        *,
        taps: Sequence[float] | None,
        rescale: bool,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.shrink = Downsample(image, channels, taps=taps, dims=dims)
        self.divisor = math.sqrt(2) if rescale else 1.0

    def forward(self, image: Picture, h: Picture) -> tuple[Picture, Picture]:
        """The sum, twice: it goes on as the image and as the features."""
        total = rescaled(self.shrink(image) + h, self.divisor)
        return total, total


class SkipOutput(nn.Module):
    """Each level adds its own image to the enlarged sum of those below."""

    def __init__(self, head: Head, *, taps: Sequence[float] | None) -> None:
        super().__init__()
        self.head, self.taps = head, taps or BOX

    def forward(self, image: Picture | None, h: Picture, fused: bool) -> tuple[Picture, Picture]:
        """The sum of images, and the features as they were."""
        own: Tensor = self.head(h, fused)
        return own if image is None else upsample(image, self.taps) + own, h


class ResidualOutput(nn.Module):
    """The enlarged features of the level below are added to this level's."""

    def __init__(self, start: Head | None, grow: Upsample | None, *, rescale: bool) -> None:
        super().__init__()
        self.start, self.grow = start, grow
        self.divisor = math.sqrt(2) if rescale else 1.0

    def forward(self, image: Picture | None, h: Picture, fused: bool) -> tuple[Picture, Picture]:
        """What the next level enlarges, and the features."""
        if self.grow is None or image is None:
            assert self.start is not None
            return self.start(h, fused), h
        total = rescaled(self.grow(image) + h, self.divisor)
        return total, total


class DownLevel(nn.Module):
    """Residual blocks at one size, each with attention or without, then half the size."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attentions: Sequence[nn.Module],
        shrink: nn.Module | None,
        join: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.shrink, self.join = shrink, join

    def forward(
        self, image: Picture, h: Picture, embedding: Float[Tensor, "batch size"], fused: bool
    ) -> tuple[Picture, list[Tensor]]:
        """The image for the next level, and the features to keep; the last of them go on."""
        kept = []
        for i, block in enumerate(self.blocks):
            h = block(h, embedding, fused)
            h = self.attentions[i](h, fused) if self.attentions else h
            kept.append(h)
        if self.shrink is not None:
            h = self.shrink(h, embedding, fused)
            if self.join is not None:
                image, h = self.join(image, h)
            kept.append(h)
        return image, kept


class UpLevel(nn.Module):
    """Residual blocks at one size, each on what was kept beside it, then twice the size."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attention: nn.Module | None,
        output: nn.Module | None,
        grow: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks, self.attention = nn.ModuleList(blocks), attention
        self.output, self.grow = output, grow

    def forward(
        self,
        image: Picture | None,
        h: Picture,
        kept: list[Tensor],
        embedding: Float[Tensor, "batch size"],
        fused: bool,
    ) -> tuple[Picture | None, Picture]:
        """The output so far and the features; what it uses of the kept it takes away."""
        for block in self.blocks:
            h = block(torch.cat([h, kept.pop()], dim=1), embedding, fused)
        h = self.attention(h, fused) if self.attention else h
        if self.output is not None:
            image, h = self.output(image, h, fused)
        return image, self.grow(h, embedding, fused) if self.grow else h


def resize(
    form: Form,
    block: Callable[..., nn.Module],
    fir: Sequence[float] | None,
    dims: int,
    direction: Literal["down", "up"],
    channels: int,
) -> nn.Module:
    """What changes the size between levels: a convolution (DDPM) or a residual block (BigGAN)."""
    if form == "ddpm":
        return {"down": Downsample, "up": Upsample}[direction](
            channels, channels, taps=fir, dims=dims
        )
    change = {"down": downsample, "up": upsample}[direction]
    return block(channels, channels, resample=partial(change, taps=fir or BOX))


def join(
    kind: Progressive,
    fir: Sequence[float] | None,
    cat: bool,
    rescale: bool,
    dims: int,
    image: int,
    channels: int,
) -> nn.Module | None:
    """How the shrunken image enters."""
    if kind == "skip":
        return SkipInput(image, channels, taps=fir, cat=cat, dims=dims)
    if kind == "residual":
        return ResidualInput(image, channels, taps=fir, rescale=rescale, dims=dims)
    return None


def output(
    kind: Progressive,
    fir: Sequence[float] | None,
    head: Callable[..., Head],
    rescale: bool,
    init_scale: float,
    dims: int,
    image: int,
    channels: int,
    below: int | None,
) -> nn.Module | None:
    """A level's part in the output, above a level of `below` channels or none."""
    if kind == "none":
        return None
    if kind == "skip":
        return SkipOutput(head(channels, image, scale=init_scale), taps=fir)
    if below is None:
        return ResidualOutput(head(channels, channels, scale=1.0), None, rescale=rescale)
    grow = Upsample(below, channels, taps=fir, dims=dims)
    return ResidualOutput(None, grow, rescale=rescale)
