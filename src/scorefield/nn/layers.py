"""The parts of a RefineNet: InstanceNorm++, pooling, resampling and the blocks made of them.

    InstanceNorm++    yₖ = γₖ·((xₖ − μₖ)/σₖ + αₖ·(μₖ − m)/v) + βₖ      (Song & Ermon 2019, app. A.1)

with μₖ, σₖ the mean and deviation of channel k in one image, m, v those of the μₖ, and in
CondInstanceNorm++ a γ, α, β for each noise level. The paper adds αₖ·(μₖ − m)/v outside the product
with γₖ; the authors' networks are as above. The two are one family (α of the paper is γα of ours),
but weights of one do not fit the other.

Resampling and the mean over a window are products with small matrices, R·x·Cᵀ: faster on a CPU than
torch's own operations for them, and differentiable any number of times, eager or compiled.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .images import Images

LevelIndex: TypeAlias = Int[Tensor, "batch"] | None
"""The index of each sample's noise level, for networks that have a table of them."""


class InstanceNormPlus(nn.Module):
    """InstanceNorm++; with `levels`, CondInstanceNorm++ (Song & Ermon 2019, app. A.1)."""

    def __init__(self, features: int, levels: int | None = None):
        super().__init__()
        self.conditional, self.eps = levels is not None, 1e-5
        # γ, α, β of each level in one table: one lookup
        self.affine = nn.Parameter(torch.zeros(levels or 1, 3, features))
        nn.init.normal_(self.affine[:, :2].detach(), 1.0, 0.02)

    def forward(self, x: Images, level: LevelIndex = None) -> Images:
        """Normalise each channel, and keep its mean in relation to the other channels' means."""
        return instance_norm_plus(x, self.affine, self.row(level), self.eps)

    def row(self, level: LevelIndex) -> LevelIndex:
        """Return the row of the table for each sample, None if there is one for all."""
        if self.conditional and level is None:
            raise ValueError("this network has a table of noise levels: give each sample's index")
        return level if self.conditional else None


def instance_norm_plus(
    x: Images, affine: Float[Tensor, "rows 3 features"], level: LevelIndex, eps: float
) -> Images:
    """Return InstanceNorm++ with γ, α, β from the row of each sample's level, or the only row."""
    # at least float32 for the statistics: autocast passes activations of 16 bits
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = x.mean((2, 3), keepdim=True)
    centred = x - mean
    # var_mean is 15 times slower on a CPU
    deviation = (centred.square().mean((2, 3), keepdim=True) + eps).sqrt()
    if level is not None:
        affine = F.embedding(level, affine.flatten(1)).view(len(level), 3, -1)
    gamma, alpha, beta = affine.to(x.dtype)[..., None, None].unbind(1)
    # (μₖ − m)/v, with the unbiased deviation v
    gap = mean - mean.mean(1, keepdim=True)
    variance = gap.square().sum(1, keepdim=True) / (mean.shape[1] - 1)
    shift = torch.addcmul(beta, gamma * alpha, gap / (variance + eps).sqrt())
    return torch.addcmul(shift, centred, gamma / deviation).to(affine.dtype)


# ── Resampling and pooling ───────────────────────────────────────────────────────────────────────


def bilinear(size: int, size_next: int, like: Tensor) -> Float[Tensor, "size_next size"]:
    """Return linear interpolation along one axis, with aligned end points, as a matrix.

    Output i lies at i·(size − 1)/(size_next − 1), and each input's weight is a hat around it.
    """
    steps = max(size_next - 1, 1)
    target = torch.arange(size_next, device=like.device) * (size - 1)
    # integers until the last division, so that each weight is exact to one rounding
    distance = (target[:, None] - torch.arange(size, device=like.device) * steps).abs()
    return (steps - distance).clamp(min=0).to(like.dtype) / steps


def window(size: int, reach: int, like: Tensor) -> Float[Tensor, "size size"]:
    """Return the mean over 2·reach + 1 neighbours along one axis as a matrix; zeros lie outside."""
    index = torch.arange(size, device=like.device)
    near = (index[:, None] - index).abs() <= reach
    return near.to(like.dtype) / (2 * reach + 1)


def resize_bilinear(x: Images, size: torch.Size) -> Images:
    """Resize x to a height and width by bilinear interpolation with aligned corners."""
    if x.shape[2:] == size:
        return x
    (height, width), (height_next, width_next) = x.shape[2:], size
    down, across = bilinear(height, height_next, x), bilinear(width, width_next, x)
    if x.is_contiguous():
        return down @ x @ across.T
    inner = x.permute(0, 2, 3, 1)  # where channels are innermost in memory, without moving them
    rows = (down @ inner.flatten(2)).view(len(x), height_next, width, -1)
    out: Tensor = (across @ rows).permute(0, 3, 1, 2)
    return out


def mean_pool(x: Images) -> Images:
    """Return the mean over 5 × 5 pixels around each; the zeros outside count."""
    return window(x.shape[2], 2, x) @ x @ window(x.shape[3], 2, x)


def max_pool(x: Images) -> Images:
    """Return the maximum of the 5 × 5 pixels around each, one axis after the other."""
    return _max5(_max5(x, 2), 3)


def _max5(x: Tensor, dim: Literal[2, 3]) -> Tensor:
    size = x.shape[dim]
    padded = F.pad(x, (0, 0, 2, 2) if dim == 2 else (2, 2), value=-math.inf)
    # windows of 2, then 4, then 5: three maxima where a plain loop takes four
    two = torch.maximum(padded.narrow(dim, 0, size + 3), padded.narrow(dim, 1, size + 3))
    four = torch.maximum(two.narrow(dim, 0, size + 1), two.narrow(dim, 2, size + 1))
    return torch.maximum(four.narrow(dim, 0, size), padded.narrow(dim, 4, size))


# ── Blocks ───────────────────────────────────────────────────────────────────────────────────────


def identity(x: Tensor) -> Tensor:
    """Return x."""
    return x


class Conv3(nn.Conv2d):
    """A 3 × 3 convolution that keeps the size, with zeros around the image."""

    def __init__(self, features: int, out: int, *, dilation: int = 1, bias: bool = True):
        super().__init__(features, out, 3, padding=dilation, dilation=dilation, bias=bias)


class PreActivation(nn.Module):
    """Normalise, apply a function, convolve: the unit that every block repeats."""

    def __init__(
        self, norm: InstanceNormPlus | None, function: Callable[[Tensor], Tensor], conv: Conv3
    ):
        super().__init__()
        self.norm, self.function, self.conv = norm, function, conv

    def forward(self, x: Images, level: LevelIndex, plus: Tensor | None = None) -> Images:
        """Return conv(function(norm(x))) + plus."""
        h = x if self.norm is None else self.norm(x, level)
        out: Tensor = self.conv(self.function(h))
        return out if plus is None else out + plus


class PreActivationBlock(nn.Module):
    """Two units and a shortcut (Song & Ermon 2019, app. A.2: pre-activation ResNet).

    The block that opens a stage (`opens`) has a convolution for shortcut and, where it is not
    dilated, halves the size after it.
    """

    def __init__(
        self, features: int, out: int, levels: int | None, *, opens: bool = False, dilation: int = 1
    ):
        super().__init__()
        self.halves = opens and dilation == 1
        instance_norms = [InstanceNormPlus(features, levels) for _ in range(2)]
        convs = [Conv3(features, size, dilation=dilation) for size in (features, out)]
        self.units = nn.ModuleList(map(PreActivation, instance_norms, [F.elu] * 2, convs))
        self.shortcut: Callable[[Tensor], Tensor] = nn.Identity()
        if self.halves:
            self.shortcut = nn.Conv2d(features, out, 1)
        elif opens:
            self.shortcut = Conv3(features, out, dilation=dilation)

    def forward(self, x: Images, level: LevelIndex) -> Images:
        """Return shortcut(x) + units(x), at half the size if the block halves."""
        first, second = self.units
        h: Tensor = second(first(x, level), level, None if self.halves else self.shortcut(x))
        # the mean and a 1 × 1 convolution commute
        return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2)) if self.halves else h
