"""Halving and doubling images with a FIR filter, without aliasing (Zhang 2019; Karras et al. 2020).

    down   y[i] = Σ_j k[2i − j + K/2]·x[j]      up   y[i] = 2·Σ_j k[i − 2j + K/2 − 1]·x[j]

along each axis, with K taps that sum to 1 and zeros beyond the border; Song et al. 2021, appendix
H.1, take k ∝ (1, 3, 3, 1). The taps (1, 1) are the plain forms: the average of 2×2 pixels, and the
nearest neighbour. Grouped convolutions do all of it: they have derivatives of every order and
forward mode, and compile with right gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import convolution

BOX = (1.0, 1.0)
"""The taps of plain resampling."""


def blur(
    x: Float[Tensor, "batch channels height width"],
    taps: Sequence[float],
    *,
    padding: int,
    stride: int = 1,
) -> Float[Tensor, "batch channels h w"]:
    """Each channel convolved with taps ⊗ taps, normalised."""
    kernel = _kernel(taps, x).flip(2, 3)  # conv2d correlates
    return F.conv2d(x, kernel, padding=padding, stride=stride, groups=x.shape[1])


def downsample(
    x: Float[Tensor, "batch channels height width"], taps: Sequence[float] = BOX
) -> Float[Tensor, "batch channels h w"]:
    """The image at half the size."""
    return blur(x, taps, padding=len(taps) // 2 - 1, stride=2)


def upsample(
    x: Float[Tensor, "batch channels height width"], taps: Sequence[float] = BOX
) -> Float[Tensor, "batch channels h w"]:
    """The image at twice the size."""
    kernel, padding = 4 * _kernel(taps, x), len(taps) // 2 - 1
    return F.conv_transpose2d(x, kernel, stride=2, padding=padding, groups=x.shape[1])


def _kernel(taps: Sequence[float], x: Tensor) -> Float[Tensor, "channels 1 taps taps"]:
    if len(taps) % 2:
        raise ValueError(f"{len(taps)} taps: take an even number, such as (1, 3, 3, 1)")
    row = torch.tensor(taps, dtype=x.dtype, device=x.device)
    kernel = torch.outer(row, row)
    return (kernel / kernel.sum()).expand(x.shape[1], 1, -1, -1)


class Downsample(nn.Module):
    """Half the size through a 3×3 convolution with stride 2, behind a blur where taps are given.

    Without taps the zeros are to the right and below, as TensorFlow's "same" padding put them.
    """

    def __init__(self, channels: int, out: int, *, taps: Sequence[float] | None = None) -> None:
        super().__init__()
        self.conv, self.taps = convolution(channels, out), taps

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        embedding: Tensor | None = None,
        fused: bool = True,
    ) -> Float[Tensor, "batch out h w"]:
        """The image at half the size; the noise level has no part in it."""
        if self.taps is None:
            x = F.pad(x, (0, 1, 0, 1))
        else:
            x = blur(x, self.taps, padding=len(self.taps) // 2)
        return F.conv2d(x, self.conv.weight, self.conv.bias, stride=2)


class Upsample(nn.Module):
    """Twice the size and a 3×3 convolution; with taps a transposed convolution before the blur."""

    def __init__(self, channels: int, out: int, *, taps: Sequence[float] | None = None) -> None:
        super().__init__()
        self.conv, self.taps = convolution(channels, out), taps

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        embedding: Tensor | None = None,
        fused: bool = True,
    ) -> Float[Tensor, "batch out h w"]:
        """The image at twice the size; the noise level has no part in it."""
        if self.taps is None:
            plain: Tensor = self.conv(upsample(x))
            return plain
        weight, bias = self.conv.weight.flip(2, 3).transpose(0, 1), self.conv.bias
        spread = F.conv_transpose2d(x, weight, stride=2)
        smooth = 4 * blur(spread, self.taps, padding=len(self.taps) // 2 - 1)
        return smooth if bias is None else smooth + bias[:, None, None]
