"""Halving and doubling with a FIR filter, without aliasing (Zhang 2019; Karras et al. 2020).

    down   y[i] = Σ_j k[2i − j + K/2]·x[j]      up   y[i] = 2·Σ_j k[i − 2j + K/2 − 1]·x[j]

along each axis, with K taps that sum to 1 and zeros outside; Song et al. 2021, appendix H.1, take
k ∝ (1, 3, 3, 1). The taps (1, 1) are the plain forms: the average of 2×2 pixels, and the nearest
neighbour. All are grouped convolutions, which have derivatives of every order and forward mode, and
compile with the right gradients.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import convolution, per_channel
from .images import Images

Taps: TypeAlias = Sequence[float] | None
BOX = (1.0, 1.0)
"""The taps of plain resampling."""
CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]]
TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
"""Both keyed by the axes of a batch: 3 for signals, 4 for images, 5 for volumes."""


def fir_filter(x: Images, taps: Sequence[float], *, padding: int, stride: int = 1) -> Images:
    """Convolve each channel with normalised taps, along each axis."""
    kernel = _flip(_kernel(taps, x))  # conv2d correlates
    return CONVOLVE[x.ndim](x, kernel, padding=padding, stride=stride, groups=x.shape[1])


def half_size(x: Images, taps: Sequence[float] = BOX) -> Images:
    """Return the image at half the size."""
    return fir_filter(x, taps, padding=len(taps) // 2 - 1, stride=2)


def double_size(x: Images, taps: Sequence[float] = BOX) -> Images:
    """Return the image at twice the size."""
    kernel, padding = 2 ** (x.ndim - 2) * _kernel(taps, x), len(taps) // 2 - 1
    return TRANSPOSED[x.ndim](x, kernel, stride=2, padding=padding, groups=x.shape[1])


def _kernel(taps: Sequence[float], x: Tensor) -> Float[Tensor, "channels 1 *taps"]:
    if len(taps) % 2:
        raise ValueError(f"{len(taps)} taps: take an even number, such as (1, 3, 3, 1)")
    # a list would be copied from the host, and a GPU would have to wait for it
    row = torch.stack([torch.full((), tap, dtype=x.dtype, device=x.device) for tap in taps])
    kernel = row
    for _ in range(x.ndim - 3):
        kernel = kernel[..., None] * row
    return (kernel / kernel.sum()).expand(x.shape[1], 1, *kernel.shape)


def _flip(kernel: Tensor) -> Tensor:
    return kernel.flip(tuple(range(2, kernel.ndim)))


class Resample(nn.Module):
    """A 3×3 convolution, and the taps of a filter or None."""

    def __init__(self, channels: int, out: int, *, taps: Taps, dims: int) -> None:
        super().__init__()
        self.conv, self.taps = convolution(channels, out, dims=dims), taps


class Downsample(Resample):
    """Half the size by a 3×3 convolution with stride 2, after a filter where taps are given.

    Without taps the zeros are to the right and below, as in TensorFlow's "same" padding.
    """

    def forward(self, x: Images, embedding: Tensor | None = None) -> Images:
        """Return the image at half the size; the noise level is not used."""
        if self.taps is None:
            x = F.pad(x, (0, 1) * (x.ndim - 2))
        else:
            x = fir_filter(x, self.taps, padding=len(self.taps) // 2)
        return CONVOLVE[x.ndim](x, self.conv.weight, self.conv.bias, stride=2)


class Upsample(Resample):
    """Twice the size and a convolution; with taps a transposed convolution before the filter."""

    def forward(self, x: Images, embedding: Tensor | None = None) -> Images:
        """Return the image at twice the size; the noise level is not used."""
        if self.taps is None:
            plain: Tensor = self.conv(double_size(x))
            return plain
        weight, bias = _flip(self.conv.weight).transpose(0, 1), self.conv.bias
        spread = TRANSPOSED[x.ndim](x, weight, stride=2)
        factor: float = 2 ** (x.ndim - 2)
        smooth = factor * fir_filter(spread, self.taps, padding=len(self.taps) // 2 - 1)
        return smooth if bias is None else smooth + per_channel(bias, x)
