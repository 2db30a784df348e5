"""What a UNet is built of: normalisation, convolutions, residual blocks and attention.

    residual    y = (shortcut(x) + conv(φ(norm(conv(φ(norm(x))) + We))))/r     (He et al. 2016)
    attention   y = (x + W_o·softmax(qᵀk/√C)·v)/r,  q, k, v = W·norm(x)        (Vaswani et al. 2017)

φ is SiLU, e the embedded noise level, and r = √2 where the skip is rescaled, else 1. Blocks are of
DDPM's form (Ho et al. 2020) or of BigGAN's, which changes the size inside the block (Brock et al.
2019; Song et al. 2021, appendix H.1). Every weight starts uniform with variance scale/fan_avg, the
last of a branch at 1e-10: a fresh block is nearly its shortcut. With `dims=1` all is for signals.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from . import around, winograd
from .layers import Conv3

Form: TypeAlias = Literal["ddpm", "biggan"]
NEARLY_ZERO = 1e-10
"""The scale that stands for 0 in the published initialisation."""


def scaled(weight: Tensor, scale: float) -> None:
    """Draw a weight uniform with variance scale/fan_avg, in place."""
    nn.init.xavier_uniform_(weight, gain=math.sqrt(max(scale, NEARLY_ZERO)))


CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
"""By how many axes a sample has beside its channels: 1 for signals, 2 for images."""


def convolution(
    channels: int, out: int, size: int = 3, *, scale: float = 1.0, dims: int = 2
) -> nn.Conv1d | nn.Conv2d:
    """A convolution that keeps the length, or height and width, drawn as published."""
    if (size, dims) == (3, 2):
        layer: nn.Conv1d | nn.Conv2d = Conv3(channels, out)
    else:
        layer = CONVOLUTIONS[dims](channels, out, size, padding=size // 2)
    scaled(layer.weight, scale)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def linear(size: int, out: int) -> nn.Linear:
    """A linear layer, drawn as published."""
    layer = nn.Linear(size, out)
    scaled(layer.weight, 1.0)
    nn.init.zeros_(layer.bias)
    return layer


class GroupNorm(nn.GroupNorm):
    """torch's, also in operations that have every derivative, in any layout and mixed types."""

    def forward(
        self, x: Float[Tensor, "batch channels *size"], fused: bool = True
    ) -> Float[Tensor, "batch channels *size"]:
        """Each group of channels less its mean and over its deviation; plain if not `fused`."""
        return normalize(x, self.weight, self.bias, self.num_groups, self.eps, fused)


def normalize(
    x: Float[Tensor, "batch channels *size"],
    gain: Float[Tensor, "channels"],
    bias: Float[Tensor, "channels"],
    groups: int,
    eps: float,
    fused: bool,
) -> Float[Tensor, "batch channels *size"]:
    """What `GroupNorm` does."""
    # torch's backward crashes in channels_last where x has no gradient, as behind frozen layers
    frozen = torch.is_grad_enabled() and gain.requires_grad and not x.requires_grad
    if fused and not frozen:
        return F.group_norm(x, groups, gain, bias, eps)
    # statistics of 16-bit activations are taken in 32 bits, as the kernel does
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    grouped = wide.view(len(x), groups, -1, *x.shape[2:])
    axes = tuple(range(2, grouped.ndim))
    centred = grouped - grouped.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    out = (centred * (variance + eps).rsqrt()).flatten(1, 2)
    gain, bias = (beside(each.to(wide.dtype), x) for each in (gain, bias))
    return torch.addcmul(bias, out, gain).to(x.dtype)


def beside(features: Float[Tensor, "*channels"], x: Tensor) -> Float[Tensor, "*spread"]:
    """A number a channel, shaped to be added to x, or multiplied with it."""
    return features.view(*features.shape, *[1] * (x.ndim - 2))


def normalization(channels: int, groups: int | None = None) -> GroupNorm:
    """Group normalisation (Wu & He 2018): DDPM's 32 groups, else min(channels/4, 32)."""
    count = groups or max(1, min(channels // 4, 32))
    if channels % count:
        raise ValueError(
            f"{channels} channels are no multiple of {count} groups: change width or groups"
        )
    return GroupNorm(count, channels, eps=1e-6)


def rescaled(total: Tensor, divisor: float) -> Tensor:
    """A sum of two branches, over √2 or as it is."""
    return total if divisor == 1 else total / divisor


def convolved(
    norm: GroupNorm,
    conv: nn.Conv1d | nn.Conv2d,
    x: Float[Tensor, "batch channels *size"],
    fused: bool,
    *,
    between: Callable[[Tensor], Tensor] | None = None,
    shift: Float[Tensor, "batch out"] | None = None,
    plus: Float[Tensor, "batch out *size_next"] | None = None,
) -> Float[Tensor, "batch out *size_next"]:
    """conv(between(φ(norm(x)))) + shift + plus, the shift a number a channel."""
    fast = isinstance(conv, Conv3) and conv.fast and around.bare(conv, norm)
    if isinstance(conv, Conv3) and fast and between is None:
        kind = _convolution(norm.num_groups, norm.eps, conv.coarse, fused)
        assert conv.bias is not None  # as `convolution` makes them
        bias = conv.bias if shift is None else conv.bias + shift
        table = _table(norm)
        return winograd.convolve(kind, x, conv.weight, affine=table, bias=bias, plus=plus)
    if fast:
        before = around.activated(_activation(norm.num_groups, norm.eps, fused), x, _table(norm))
    else:
        before = F.silu(norm(x, fused))
    h: Tensor = conv(before if between is None else between(before))
    h = h if shift is None else h + beside(shift, h)
    return h if plus is None else h + plus


def _table(norm: GroupNorm) -> Float[Tensor, "1 2 channels"]:
    return torch.stack([norm.weight, norm.bias])[None]


@functools.cache
def _activation(groups: int, eps: float, fused: bool) -> around.Kind:
    """φ(norm(x)) as `around` is told of it."""

    def plain(x: Tensor, affine: Tensor) -> Tensor:
        gain, bias = affine[0]
        return F.silu(normalize(x, gain, bias, groups, eps, fused))

    return around.Kind(plain, function="silu", groups=groups, eps=eps)


@functools.cache
def _convolution(groups: int, eps: float, coarse: bool, fused: bool) -> around.Kind:
    """conv(φ(norm(x))) + bias + plus, likewise."""
    before = _activation(groups, eps, fused)

    def plain(
        x: Tensor,
        affine: Tensor,
        level: None,
        weight: Tensor,
        bias: Tensor,
        plus: Tensor | None,
    ) -> Tensor:
        h = F.conv2d(before.plain(x, affine), weight, padding=1) + beside(bias, x)
        return h if plus is None else h + plus

    return dataclasses.replace(before, plain=plain, coarse=coarse)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, told the noise level between them.

    Args:
        channels: Channels of the input.
        out: Channels of the output.
        embedding: The length of the embedded noise level.
        form: "ddpm" or "biggan"; they differ in the shortcut.
        resample: What is done to the image in both branches (BigGAN's form), if anything.
        groups: Groups of the normalisation; `None` is min(channels/4, 32).
        rescale: Divide the sum of the branches by √2.
        dropout: The share of features dropped before the second convolution.
        init_scale: The scale of the second convolution's first weights.
        dims: 1 for signals, 2 for images.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        *,
        form: Form = "biggan",
        resample: Callable[[Tensor], Tensor] | None = None,
        groups: int | None = None,
        rescale: bool = True,
        dropout: float = 0.0,
        init_scale: float = 0.0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.norm_in = normalization(channels, groups)
        self.conv_in = convolution(channels, out, dims=dims)
        self.shift = linear(embedding, out)
        self.norm_out = normalization(out, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = convolution(out, out, scale=init_scale, dims=dims)
        # DDPM's are drawn like its attention's weights, smaller
        scale = 0.1 if form == "ddpm" else 1.0
        new_shortcut = partial(convolution, size=1, scale=scale, dims=dims)
        changed = channels != out or resample is not None
        self.shortcut = new_shortcut(channels, out) if changed else nn.Identity()
        self.resample = resample
        self.divisor = math.sqrt(2) if rescale else 1.0

    def forward(
        self,
        x: Float[Tensor, "batch channels ..."],
        embedding: Float[Tensor, "batch embedded"],
        fused: bool = True,
    ) -> Float[Tensor, "batch out ..."]:
        """The block's output, given φ of the embedded noise level."""
        drops = self.dropout.training and self.dropout.p > 0
        h = convolved(
            self.norm_in,
            self.conv_in,
            x,
            fused,
            between=self.resample,
            shift=self.shift(embedding),
        )
        if self.resample is not None:
            x = self.resample(x)
        total = convolved(
            self.norm_out,
            self.conv_out,
            h,
            fused,
            between=self.dropout if drops else None,
            plus=self.shortcut(x),
        )
        return rescaled(total, self.divisor)


class Attention(nn.Module):
    """Self-attention between all pixels, with one head.

    Args:
        channels: Channels of input and output.
        groups: Groups of the normalisation; `None` is min(channels/4, 32).
        rescale: Divide the sum with the input by √2.
        init_scale: The scale of the last projection's first weights.
        dims: 1 for signals, 2 for images.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int | None = None,
        rescale: bool = True,
        init_scale: float = 0.0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        project = partial(convolution, channels, channels, 1, dims=dims)
        self.norm = normalization(channels, groups)
        self.query = project(scale=0.1)
        self.key = project(scale=0.1)
        self.value = project(scale=0.1)
        self.out = project(scale=init_scale)
        self.divisor = math.sqrt(2) if rescale else 1.0

    def forward(
        self, x: Float[Tensor, "batch channels *size"], fused: bool = True
    ) -> Float[Tensor, "batch channels *size"]:
        """The attended image; not `fused`, in operations that have every derivative."""
        h = self.norm(x, fused)
        q, k, v = (_pixels(project(h)) for project in (self.query, self.key, self.value))
        if fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
        mixed = mixed.squeeze(1).transpose(1, 2).reshape(x.shape)
        return rescaled(x + self.out(mixed), self.divisor)


def _pixels(x: Tensor) -> Float[Tensor, "batch 1 pixels channels"]:
    """The pixels as a sequence, for one head; fused kernels want a pixel's channels adjacent."""
    return x.flatten(2).transpose(1, 2).contiguous()[:, None]


def differentiated(*inputs: Tensor) -> bool:
    """Whether derivatives by an input are being taken: they may be of second order or forward.

    The fused kernels lack some of those; training by denoising asks for none. Derivatives by the
    parameters alone are taken for training: second ones need `torch.nn.attention.sdpa_kernel` with
    `SDPBackend.MATH` around the forward pass.
    """
    return any(
        (x.requires_grad and torch.is_grad_enabled()) or unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
        for x in inputs
    )
