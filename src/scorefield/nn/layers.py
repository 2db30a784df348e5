"""The parts of a RefineNet: InstanceNorm++, pooling, resampling and the blocks made of them.

    InstanceNorm++    yₖ = γₖ·((xₖ − μₖ)/σₖ + αₖ·(μₖ − m)/v) + βₖ      (Song & Ermon 2019, app. A.1)

with μₖ, σₖ the mean and deviation of channel k in one image, m, v those of the μₖ, and in
CondInstanceNorm++ a γ, α, β for each noise level. The paper adds αₖ·(μₖ − m)/v outside the product
with γₖ; the authors' networks are as above. The two are one family (α of the paper is γα of ours),
but weights of one do not fit the other.

Resampling and the mean over a window are products with small matrices, R·x·Cᵀ: faster than the ops
of that name on a CPU, and differentiable as often as one likes, eager or compiled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import around, winograd

Level = Int[Tensor, "batch"] | None
"""The index of each sample's noise level, for networks that have a table of them."""


class InstanceNormPlus(nn.Module):
    """InstanceNorm++; with `levels`, CondInstanceNorm++ (Song & Ermon 2019, app. A.1)."""

    def __init__(self, features: int, levels: int | None = None, eps: float = 1e-5):
        super().__init__()
        self.conditional = levels is not None
        self.eps = eps
        # γ, α, β of each level in one table: one lookup
        self.affine = nn.Parameter(torch.zeros(levels or 1, 3, features))
        nn.init.normal_(self.affine[:, :2].detach(), 1.0, 0.02)

    def forward(
        self, x: Float[Tensor, "batch features height width"], level: Level = None
    ) -> Float[Tensor, "batch features height width"]:
        """Each channel normalised, its mean kept in relation to the others' means."""
        return normalize(x, self.affine, self.known(level), self.eps)

    def known(self, level: Level) -> Level:
        """The level, where there is a table of them."""
        if self.conditional and level is None:
            raise ValueError("this network has a table of noise levels: give each sample's index")
        return level if self.conditional else None


def normalize(
    x: Float[Tensor, "batch features height width"],
    affine: Float[Tensor, "rows 3 features"],
    level: Level,
    eps: float,
) -> Float[Tensor, "batch features height width"]:
    """InstanceNorm++ with γ, α, β from the row of each sample's level, or the only one."""
    # statistics of 16-bit activations, which autocast hands over, are taken in 32 bits
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = x.mean((2, 3), keepdim=True)
    centred = x - mean
    # not var_mean, which is 15 times slower on a CPU
    deviation = (centred.square().mean((2, 3), keepdim=True) + eps).sqrt()
    if level is None:
        rows = affine
    else:
        rows = F.embedding(level, affine.flatten(1)).view(len(level), 3, -1)
    gamma, alpha, beta = rows.to(x.dtype)[..., None, None].unbind(1)
    shift = torch.addcmul(beta, gamma * alpha, _standardise(mean, eps))
    return torch.addcmul(shift, centred, gamma / deviation).to(affine.dtype)


def _standardise(means: Tensor, eps: float) -> Tensor:
    """The channels' means, less their mean and over their (unbiased) deviation."""
    gap = means - means.mean(1, keepdim=True)
    variance = gap.square().sum(1, keepdim=True) / (means.shape[1] - 1)
    return gap / (variance + eps).sqrt()


# ── Resampling and pooling ───────────────────────────────────────────────────────────────────────


def bilinear(size: int, size_next: int, like: Tensor) -> Float[Tensor, "size_next size"]:
    """Linear interpolation along one axis whose end points stay (align_corners) as a matrix.

    Output i lies at i·(size − 1)/(size_next − 1), and each input's weight is a hat around it.
    """
    steps = max(size_next - 1, 1)
    target = torch.arange(size_next, device=like.device) * (size - 1)
    # integers until the last division, so that each weight is exact to one rounding
    distance = (target[:, None] - torch.arange(size, device=like.device) * steps).abs()
    return (steps - distance).clamp(min=0).to(like.dtype) / steps


def window(size: int, reach: int, like: Tensor) -> Float[Tensor, "size size"]:
    """The mean over 2·reach + 1 neighbours along one axis as a matrix; zeros lie outside."""
    index = torch.arange(size, device=like.device)
    near = (index[:, None] - index).abs() <= reach
    return near.to(like.dtype) / (2 * reach + 1)


def upsample(
    x: Float[Tensor, "batch features _ _"], size: torch.Size
) -> Float[Tensor, "batch features _ _"]:
    """Bilinear interpolation to a height and width, corners aligned."""
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


def mean_pool(x: Float[Tensor, "batch features height width"]) -> Tensor:
    """The mean over 5 × 5 pixels around each; the zeros outside count."""
    return window(x.shape[2], 2, x) @ x @ window(x.shape[3], 2, x)


def max_pool(x: Float[Tensor, "batch features height width"]) -> Tensor:
    """The maximum of the 5 × 5 pixels around each, one axis after the other."""
    return _max5(_max5(x, 2), 3)


def _max5(x: Tensor, dim: Literal[2, 3]) -> Tensor:
    size = x.shape[dim]
    padded = F.pad(x, (0, 0, 2, 2) if dim == 2 else (2, 2), value=-math.inf)
    # windows of 2, then 4, then 5: three maxima where a plain loop takes four
    two = torch.maximum(padded.narrow(dim, 0, size + 3), padded.narrow(dim, 1, size + 3))
    four = torch.maximum(two.narrow(dim, 0, size + 1), two.narrow(dim, 2, size + 1))
    return torch.maximum(four.narrow(dim, 0, size), padded.narrow(dim, 4, size))


# ── Blocks ───────────────────────────────────────────────────────────────────────────────────────


def same(x: Tensor) -> Tensor:
    """x."""
    return x


class Conv3(nn.Conv2d):
    """A 3 × 3 convolution that keeps the size.

    Attributes:
        fast: Whether it takes fewer multiplications (`winograd`).
        coarse: Whether it takes fewer still, and errs by more.
    """

    fast = False
    coarse = False

    def __init__(self, features: int, features_out: int, *, dilation: int = 1, bias: bool = True):
        super().__init__(features, features_out, 3, padding=dilation, dilation=dilation, bias=bias)

    def forward(self, x: Float[Tensor, "batch _ height width"]) -> Tensor:
        """The convolution of x, with zeros around."""
        if self.fast:
            kind = _kind(None, same, self.dilation[0], self.coarse)
            return winograd.convolve(kind, x, self.weight, bias=self.bias)
        return super().forward(x)


class Unit(nn.Module):
    """Normalise, apply a function, convolve: what every block repeats."""

    def __init__(
        self,
        norm: InstanceNormPlus | None,
        function: Callable[[Tensor], Tensor],
        conv: Conv3,
    ):
        super().__init__()
        self.norm = norm
        self.function = function
        self.conv = conv

    def forward(
        self, x: Float[Tensor, "batch _ _ _"], level: Level, plus: Tensor | None = None
    ) -> Tensor:
        """conv(function(norm(x))) + plus."""
        if self.conv.fast and self.function in FUSED and around.bare(self.conv, self.norm):
            return self._fused(x, level, plus)
        if self.norm is not None:
            x = self.norm(x, level)
        if self.conv.fast and self.function is max_pool:
            x = around.max_pool(x, max_pool)
        else:
            x = self.function(x)
        out: Tensor = self.conv(x)
        return out if plus is None else out + plus

    def _fused(self, x: Tensor, level: Level, plus: Tensor | None) -> Tensor:
        norm, conv = self.norm, self.conv
        return winograd.convolve(
            _kind(norm and norm.eps, self.function, conv.dilation[0], conv.coarse),
            x,
            conv.weight,
            affine=None if norm is None else norm.affine,
            level=None if norm is None else norm.known(level),
            bias=conv.bias,
            plus=plus,
        )


FUSED: dict[Callable[[Tensor], Tensor], Literal["same", "elu", "pool"]] = {
    same: "same",
    F.elu: "elu",
    mean_pool: "pool",
}
"""The functions that `winograd` computes on the way."""


@functools.cache
def _kind(
    eps: float | None, function: Callable[[Tensor], Tensor], dilation: int, coarse: bool
) -> around.Kind:
    """What `winograd` is to compute, beside the same in operations that have every derivative."""

    def plain(
        x: Tensor,
        affine: Tensor | None,
        level: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        plus: Tensor | None,
    ) -> Tensor:
        h = x if affine is None or eps is None else normalize(x, affine, level, eps)
        out = F.conv2d(function(h), weight, bias, padding=dilation, dilation=dilation)
        return out if plus is None else out + plus

    return around.Kind(plain, dilation, FUSED[function], eps=eps or 0.0, coarse=coarse)


class Residual(nn.Module):
    """Two units beside a shortcut (Song & Ermon 2019, app. A.2: pre-activation ResNet).

    The block that opens a stage (`opens`) has a convolution for shortcut and, where it is not
    dilated, halves the size after it.
    """

    def __init__(
        self,
        features: int,
        features_out: int,
        levels: int | None,
        *,
        opens: bool = False,
        dilation: int = 1,
    ):
        super().__init__()
        self.halves = opens and dilation == 1
        norms = [InstanceNormPlus(features, levels) for _ in range(2)]
        first = Conv3(features, features, dilation=dilation)
        second = Conv3(features, features_out, dilation=dilation)
        self.units = nn.ModuleList([Unit(norms[0], F.elu, first), Unit(norms[1], F.elu, second)])
        self.shortcut: nn.Conv2d | None = None
        if self.halves:
            self.shortcut = nn.Conv2d(features, features_out, 1)
        elif opens:
            self.shortcut = Conv3(features, features_out, dilation=dilation)

    def forward(self, x: Float[Tensor, "batch _ _ _"], level: Level) -> Tensor:
        """shortcut(x) + units(x), at half the size if the block halves."""
        first, second = self.units
        h: Tensor = first(x, level)
        shortcut = same if self.shortcut is None else self.shortcut
        if self.halves:  # the mean and a 1 × 1 convolution commute
            h, x = F.avg_pool2d(second(h, level), 2), F.avg_pool2d(x, 2)
            return h + shortcut(x)
        h = second(h, level, shortcut(x))
        return h
