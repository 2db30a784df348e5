"""The parts of a UNet: normalisation, convolutions, residual blocks and attention.

    residual    y = (shortcut(x) + conv(φ(norm(conv(φ(norm(x))) + We))))/r     (He et al. 2016)
    attention   y = (x + W_o·softmax(qᵀk/√C)·v)/r,  q, k, v = W·norm(x)        (Vaswani et al. 2017)
    adaptive    norm(h)·(1 + W_s·e) + W_t·e after the first convolution   (Dhariwal & Nichol 2021)

φ is SiLU, e the embedded noise level, and r = √2 where the skip is rescaled, else 1. Blocks have
DDPM's form (Ho et al. 2020), or BigGAN's, which changes the size inside the block (Brock et al.
2019; Song et al. 2021, appendix H.1), or ADM's, which also has the adaptive norm. Every weight
starts uniform with variance scale/fan_avg, the last of a branch at 1e-10: a fresh block is nearly
its shortcut. With `dims=1` all is for signals, with `dims=3` for volumes.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel

from .images import Images, Vectors
from .layers import Conv3, identity

Form: TypeAlias = Literal["ddpm", "biggan", "adm"]
ConvLayer: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS: dict[int, type[ConvLayer]]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
EPSILON = 1e-6
"""Added to the variance in norms."""
NEARLY_ZERO = 1e-10
"""The scale that stands for 0 in the published initialisation."""


def variance_scaling_(weight: Tensor, scale: float) -> None:
    """Fill a weight, in place, with uniform numbers of variance scale/fan_avg."""
    nn.init.xavier_uniform_(weight, gain=math.sqrt(max(scale, NEARLY_ZERO)))


def convolution(
    channels: int, out: int, size: int = 3, *, scale: float = 1.0, dims: int = 2
) -> ConvLayer:
    """Return a convolution that keeps the size of its input, initialised as published."""
    if (size, dims) == (3, 2):
        layer: ConvLayer = Conv3(channels, out)
    else:
        layer = CONVOLUTIONS[dims](channels, out, size, padding=size // 2)
    variance_scaling_(layer.weight, scale)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def linear_layer(size: int, out: int, *, scale: float = 1.0) -> nn.Linear:
    """Return a linear layer, initialised as published."""
    layer = nn.Linear(size, out)
    variance_scaling_(layer.weight, scale)
    nn.init.zeros_(layer.bias)
    return layer


class GroupNorm(nn.GroupNorm):
    """torch's, with every derivative, any memory layout and mixed types."""

    def forward(self, x: Images) -> Images:
        """Centre each group of channels and divide it by its deviation."""
        compiling = torch.compiler.is_compiling()
        # off within `kernels_with_derivatives`
        fused = compiling or torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
        if fused:  # in channels_last torch's backward crashes after frozen layers
            return super().forward(x.contiguous())
        return group_norm(x, self.weight, self.bias, self.num_groups, self.eps)


def group_norm(x: Images, gain: Tensor, bias: Tensor, groups: int, eps: float) -> Images:
    """Return the group normalisation of x by elementary operations, which have every derivative."""
    # at least float32 for the statistics, as in torch's kernel
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    grouped = wide.view(len(x), groups, x.shape[1] // groups, *x.shape[2:])
    axes = tuple(range(2, grouped.ndim))
    centred = grouped - grouped.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    out = (centred * (variance + eps).rsqrt()).flatten(1, 2)
    gain, bias = (per_channel(p.to(wide.dtype), x) for p in (gain, bias))
    return torch.addcmul(bias, out, gain).to(x.dtype)


def per_channel(features: Tensor, x: Tensor) -> Tensor:
    """Reshape one number a channel so that it broadcasts over the pixels of x."""
    return features.view(*features.shape, *[1] * (x.ndim - 2))


def normalization(channels: int, groups: int | None = None) -> GroupNorm:
    """Return group normalisation (Wu & He 2018): DDPM's 32 groups, else min(channels/4, 32)."""
    count = groups or max(1, min(channels // 4, 32))
    if channels % count:
        sizes = f"{channels} channels are not a multiple of {count} groups"
        raise ValueError(f"{sizes}: change width or groups")
    return GroupNorm(count, channels, eps=EPSILON)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, conditioned on the noise level between them.

    BigGAN's form applies `resample` in both branches; `rescale` divides their sum by √2, and
    `init_scale` is the scale of the second convolution's first weights.
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
        self.shift = linear_layer(embedding, out)
        self.norm_out = normalization(out, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = convolution(out, out, scale=init_scale, dims=dims)
        self.shortcut: Callable[[Tensor], Tensor] = nn.Identity()
        if channels != out or resample is not None:
            # DDPM's start as small as its attention's weights
            scale = 0.1 if form == "ddpm" else 1.0
            self.shortcut = convolution(channels, out, 1, scale=scale, dims=dims)
        self.resample = resample or identity
        self.divisor = math.sqrt(2) if rescale else 1.0

    def forward(self, x: Images, embedding: Vectors) -> Images:
        """Return the block's output, given φ of the embedded noise level."""
        h: Tensor = self.conv_in(self.resample(F.silu(self.norm_in(x))))
        h = h + per_channel(self.shift(embedding), h)
        h = self.conv_out(self.dropout(F.silu(self.norm_out(h))))
        return (h + self.shortcut(self.resample(x))) / self.divisor


class AdaptiveBlock(ResidualBlock):
    """ADM's block: the embedding scales and shifts the second norm (Dhariwal & Nichol 2021, §3).

    Where the size alone changes, the shortcut has no convolution.
    """

    def __init__(self, channels: int, out: int, embedding: int, **options: Any) -> None:
        super().__init__(channels, out, embedding, **options)
        self.shift = linear_layer(embedding, 2 * out)
        if channels == out:
            self.shortcut = nn.Identity()

    def forward(self, x: Images, embedding: Vectors) -> Images:
        """Return the block's output, given φ of the embedded noise level."""
        h: Tensor = self.conv_in(self.resample(F.silu(self.norm_in(x))))
        scale, shift = per_channel(self.shift(embedding), h).chunk(2, dim=1)
        h = self.norm_out(h) * (scale + 1) + shift
        h = self.conv_out(self.dropout(F.silu(h)))
        return (h + self.shortcut(self.resample(x))) / self.divisor


class Attention(nn.Module):
    """Self-attention between all pixels; `init_scale` is the last projection's.

    Heads have `head_channels` or a few more, by default there is one.
    """

    def __init__(
        self,
        channels: int,
        *,
        head_channels: int | None = None,
        groups: int | None = None,
        rescale: bool = True,
        init_scale: float = 0.0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        project = partial(convolution, channels, channels, 1, dims=dims)
        self.norm = normalization(channels, groups)
        self.query, self.key, self.value = (project(scale=0.1) for _ in range(3))
        self.out = project(scale=init_scale)
        self.heads = max(1, channels // (head_channels or channels))
        if channels % self.heads:
            raise ValueError(
                f"head_channels={head_channels}: {channels} channels are not a multiple of "
                f"{self.heads} heads"
            )
        self.divisor = math.sqrt(2) if rescale else 1.0

    def forward(self, x: Images) -> Images:
        """Return the attended image."""
        h = self.norm(x)
        projections = self.query(h), self.key(h), self.value(h)
        # pixels as a sequence for each head; torch's kernels want adjacent channels
        sequences = (p.flatten(2).unflatten(1, (self.heads, -1)) for p in projections)
        q, k, v = (s.transpose(2, 3).contiguous() for s in sequences)
        values = F.scaled_dot_product_attention(q, k, v)
        values = values.transpose(2, 3).reshape(x.shape)
        out: Tensor = (x + self.out(values)) / self.divisor
        return out


def kernels_with_derivatives(*inputs: Tensor) -> AbstractContextManager[None]:
    """Let attention and norms have every derivative where one by an input is taken.

    torch's fused kernels lack second ones and forward mode; training by denoising needs neither.
    Derivatives by the parameters alone are for training: for second ones put the same
    `torch.nn.attention.sdpa_kernel` with `SDPBackend.MATH` around the forward pass.
    """
    if any(
        (x.requires_grad and torch.is_grad_enabled()) or unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
        for x in inputs
    ):
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
