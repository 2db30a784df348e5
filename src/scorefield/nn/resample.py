"""Halving and doubling with a FIR filter, without aliasing (Zhang 2019; Karras et al. 2020).

    down   y[i] = Σ_j k[2i − j + K/2]·x[j]      up   y[i] = 2·Σ_j k[i − 2j + K/2 − 1]·x[j]

along each axis, of which a signal has one, with K taps that sum to 1 and zeros beyond the border;
Song et al. 2021, appendix H.1, take k ∝ (1, 3, 3, 1). The taps (1, 1) are the plain forms: the
average of 2×2 pixels, and the nearest neighbour. Grouped convolutions do all of it: they have
derivatives of every order and forward mode, and compile with right gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import beside, convolution

BOX = (1.0, 1.0)
"""The taps of plain resampling."""

CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d}
SPREAD: dict[int, Callable[..., Tensor]] = {3: F.conv_transpose1d, 4: F.conv_transpose2d}
"""By the axes of a batch: 3 of signals, 4 of images."""


def blur(
    x: Float[Tensor, "batch channels ..."],
    taps: Sequence[float],
    *,
    padding: int,
    stride: int = 1,
) -> Float[Tensor, "batch channels ..."]:
    """Each channel convolved with taps ⊗ taps, or with taps along a signal, normalised."""
    kernel = _mirrored(_kernel(taps, x))  # conv2d correlates
    return CONVOLVE[x.ndim](x, kernel, padding=padding, stride=stride, groups=x.shape[1])


def downsample(
    x: Float[Tensor, "batch channels ..."], taps: Sequence[float] = BOX
) -> Float[Tensor, "batch channels ..."]:
    """The image at half the size."""
    return blur(x, taps, padding=len(taps) // 2 - 1, stride=2)


def upsample(
    x: Float[Tensor, "batch channels ..."], taps: Sequence[float] = BOX
) -> Float[Tensor, "batch channels ..."]:
    """The image at twice the size."""
    kernel, padding = 2 ** (x.ndim - 2) * _kernel(taps, x), len(taps) // 2 - 1
    return SPREAD[x.ndim](x, kernel, stride=2, padding=padding, groups=x.shape[1])


def _kernel(taps: Sequence[float], x: Tensor) -> Float[Tensor, "channels 1 *taps"]:
    if len(taps) % 2:
        raise ValueError(f"{len(taps)} taps: take an even number, such as (1, 3, 3, 1)")
    # not from a list, for which another device would be waited for
    row = torch.stack([torch.full((), tap, dtype=x.dtype, device=x.device) for tap in taps])
    kernel = row if x.ndim == 3 else torch.outer(row, row)
    return (kernel / kernel.sum()).expand(x.shape[1], 1, *kernel.shape)


def _mirrored(kernel: Tensor) -> Tensor:
    return kernel.flip(tuple(range(2, kernel.ndim)))


class Downsample(nn.Module):
    """Half the size through a 3×3 convolution with stride 2, behind a blur where taps are given.

    Without taps the zeros are to the right and below, as TensorFlow's "same" padding put them.
    """

    def __init__(
        self, channels: int, out: int, *, taps: Sequence[float] | None = None, dims: int = 2
    ) -> None:
        super().__init__()
        self.conv, self.taps = convolution(channels, out, dims=dims), taps

    def forward(
        self,
        x: Float[Tensor, "batch channels ..."],
        embedding: Tensor | None = None,
        fused: bool = True,
    ) -> Float[Tensor, "batch out ..."]:
        """The image at half the size; the noise level has no part in it."""
        if self.taps is None:
            x = F.pad(x, (0, 1) * (x.ndim - 2))
        else:
            x = blur(x, self.taps, padding=len(self.taps) // 2)
        return CONVOLVE[x.ndim](x, self.conv.weight, self.conv.bias, stride=2)


class Upsample(nn.Module):
    """Twice the size and a convolution; with taps a transposed convolution before the blur."""

    def __init__(
        self, channels: int, out: int, *, taps: Sequence[float] | None = None, dims: int = 2
    ) -> None:
        super().__init__()
        self.conv, self.taps = convolution(channels, out, dims=dims), taps

    def forward(
        self,
        x: Float[Tensor, "batch channels ..."],
        embedding: Tensor | None = None,
        fused: bool = True,
    ) -> Float[Tensor, "batch out ..."]:
        """The image at twice the size; the noise level has no part in it."""
        if self.taps is None:
            plain: Tensor = self.conv(upsample(x))
            return plain
        weight, bias = _mirrored(self.conv.weight).transpose(0, 1), self.conv.bias
        spread = SPREAD[x.ndim](x, weight, stride=2)
        factor: float = 2 ** (x.ndim - 2)
        smooth = factor * blur(spread, self.taps, padding=len(self.taps) // 2 - 1)
        return smooth if bias is None else smooth + beside(bias, x)
