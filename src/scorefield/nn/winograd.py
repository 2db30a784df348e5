"""3 × 3 convolutions on a CPU with a quarter of the multiplications, and what surrounds them.

    y = conv(f(norm(x))) + bias + plus      f the identity, ELU, SiLU or the mean over 5 × 5 pixels

by F(4 × 4, 3 × 3) or F(5 × 5, 3 × 3) of Lavin & Gray 2016, in float32, in the C++ of `kernels`.
Where that is not to be had, `kernels.why_not` says why, and the ordinary operations do the same, as
`around` says of what else goes that way.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .around import (
    Kind,
    at,
    box,
    inner_of,
    norm_backward,
    norm_fits,
    padded,
    plainly,
    statistics,
    takes,
)
from .kernels import library, why_not

# ── Tiles ────────────────────────────────────────────────────────────────────────────────────────


LARGE = 1.15
"""What a multiplication takes in the largest tiles, fewer of which fit a cache."""


@functools.cache
def pays(height: int, width: int, dilation: int) -> bool:
    """Whether tiles fit images of this size well enough to save multiplications."""
    tile = _tile(height, width, dilation)
    return _products(height, width, dilation, tile) <= 0.6 * 9 * height * width


@functools.cache
def _tile(height: int, width: int, dilation: int, coarse: bool = False) -> int:
    """Outputs of a tile along each axis: what needs fewest multiplications, by their cost."""
    tiles = {4: 1.0, 5: 1.0, 7: LARGE} if coarse else {4: 1.0, 5: 1.0}
    return min(tiles, key=lambda tile: tiles[tile] * _products(height, width, dilation, tile))


def _products(height: int, width: int, dilation: int, tile: int) -> int:
    """Multiplications of a channel by a channel."""
    down, across = ((-(-size // dilation) + tile - 1) // tile for size in (height, width))
    return (tile + 2) ** 2 * dilation**2 * down * across


# ── The operation ────────────────────────────────────────────────────────────────────────────────


def convolve(
    kind: Kind,
    x: Tensor,
    weight: Tensor,
    *,
    affine: Tensor | None = None,
    level: Tensor | None = None,
    bias: Tensor | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    """conv(f(norm(x))) + bias + plus; channels are innermost in the result's memory.

    The bias is one for all images, or one for each.
    """
    if not (
        takes(x, weight, affine, bias, plus)
        and _fit(kind, x, weight, affine, level, bias, plus)
        and pays(x.shape[2], x.shape[3], kind.dilation)
        and why_not() is None
    ):
        return kind.plain(x, affine, level, weight, bias, plus)
    # as the kernels read them
    level = None if level is None else level.long().contiguous()
    affine, bias = (t if t is None else t.contiguous() for t in (affine, bias))
    inputs = (x, affine, weight, bias, plus)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        out: Tensor = _Convolve.apply(kind, x, affine, level, weight, bias, plus)  # type: ignore[no-untyped-call]
        return out
    tile = _tile(x.shape[2], x.shape[3], kind.dilation, kind.coarse)
    u = _kept_weights(weight, tile)
    return _forward(kind, tile, x, affine, level, u, len(weight), bias, plus)[0]


def _fit(
    kind: Kind,
    x: Tensor,
    weight: Tensor,
    affine: Tensor | None,
    level: Tensor | None,
    bias: Tensor | None,
    plus: Tensor | None,
) -> bool:
    """Whether shapes are those that the kernels take for granted; else torch says what is wrong."""
    if x.ndim != 4 or x.numel() == 0 or weight.shape[1:] != (x.shape[1], 3, 3):
        return False
    features, (n, channels, *size) = len(weight), x.shape
    return (
        norm_fits(kind, channels, affine)
        and (affine is None or level is not None or len(affine) == 1)
        and (level is None or (level.is_cpu and level.shape == (n,)))
        and (bias is None or bias.shape in ((features,), (n, features)))
        and (plus is None or plus.shape == (n, features, *size))
    )


def _forward(
    kind: Kind,
    tile: int,
    x: Tensor,
    affine: Tensor | None,
    level: Tensor | None,
    u: Tensor,
    features: int,
    bias: Tensor | None,
    plus: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The result, and what its derivative needs: the norm's statistics and the pooled image."""
    inner = inner_of(x)
    norms = None if affine is None else statistics(kind, inner, affine, level)
    pooled = kind.function == "pool"
    seen = box(inner, norms) if pooled else None
    out = _apply(
        inner if seen is None else seen,
        u,
        features,
        kind.dilation,
        tile,
        norms=None if pooled else norms,
        function=kind.code,
        bias=bias,
        plus=None if plus is None else inner_of(plus),
    )
    return out, norms, seen


class _Convolve(torch.autograd.Function):
    """The first derivative by kernels; with `create_graph` that of the plain way."""

    @staticmethod
    def forward(
        ctx: Any,
        kind: Kind,
        x: Tensor,
        affine: Tensor | None,
        level: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        plus: Tensor | None,
    ) -> Tensor:
        tile = _tile(x.shape[2], x.shape[3], kind.dilation)
        u = _weights(weight, tile)
        out, norms, seen = _forward(kind, tile, x, affine, level, u, len(weight), bias, plus)
        ctx.kind = kind
        ctx.save_for_backward(x, affine, level, weight, bias, plus, norms, seen)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        kind, needed = ctx.kind, ctx.needs_input_grad
        x, affine, level, weight, bias, plus, norms, seen = ctx.saved_tensors
        if torch.is_grad_enabled() or not takes(dy):
            return plainly(kind, needed, dy, x, affine, level, weight, bias, plus)
        inner, dy = inner_of(x), inner_of(dy)
        dx = dtable = dweight = None
        if needed[4]:
            source, norm = (inner, norms) if seen is None else (seen, None)
            dweight = _correlate(source, norm, kind, dy)
        if needed[1] or needed[2]:
            tile = _tile(x.shape[2], x.shape[3], kind.dilation)
            back = _weights(weight, tile, transposed=True)
            da = _apply(dy, back, weight.shape[1], kind.dilation, tile)
            dx, dtable = norm_backward(kind, da, inner, affine, level, norms)
        dbias = None
        if needed[5]:
            dbias = dy.sum((2, 3) if bias.ndim == 2 else (0, 2, 3))
        return None, dx, dtable, None, dweight, dbias, dy if needed[6] else None


# ── Calls ────────────────────────────────────────────────────────────────────────────────────────


def _weights(weight: Tensor, tile: int, *, transposed: bool = False) -> Tensor:
    """G g Gᵀ, for the convolution or for its transpose."""
    weight = weight.detach().contiguous()
    features, channels = weight.shape[:2]
    steps = 9 * channels, 9
    if transposed:
        features, channels, steps = channels, features, steps[::-1]
    u = weight.new_empty((tile + 2) ** 2, channels, padded(features))
    library().transform_weights(
        tile, at(weight), *steps, transposed,
        channels, features, at(u), torch.get_num_threads(),
    )  # fmt: skip
    return u


_KEPT: MutableMapping[Tensor, tuple[tuple[Any, ...], Tensor]] = WeakTensorKeyDictionary()
"""Transformed weights of networks that are not being trained, with what tells them from others."""


def _kept_weights(weight: Tensor, tile: int) -> Tensor:
    # by their values, for fused optimisers and `.data` change them without a new version
    now = weight.detach().contiguous()
    known = (tile, now.shape, _fingerprint(now))
    kept = _KEPT.get(weight)
    if kept is None or kept[0] != known:
        kept = (known, _weights(now, tile))
        _KEPT[weight] = kept
    return kept[1]


def _fingerprint(x: Tensor) -> bytes:
    """What another tensor has too only if its bits are the same, or by a chance of 2⁻³²."""
    out = ctypes.create_string_buffer(4 * 4 * 16)
    library().fingerprint(at(x), x.numel(), out, torch.get_num_threads())
    return out.raw


def _apply(
    x: Tensor,
    u: Tensor,
    features: int,
    dilation: int,
    tile: int,
    *,
    norms: Tensor | None = None,
    function: int = 0,
    bias: Tensor | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    n, channels, height, width = x.shape
    size = (n, features, height, width)
    bias_step = features if bias is not None and bias.ndim == 2 else 0
    out = torch.empty(
        size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )  # not torch's defaults, which a user may have changed
    library().convolve(
        tile, *map(at, (x, norms)), function,
        *map(at, (u, bias)), bias_step, *map(at, (plus, out)),
        n, height, width, channels, features, dilation, torch.get_num_threads(),
    )  # fmt: skip
    return out


def _correlate(x: Tensor, norms: Tensor | None, kind: Kind, dy: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    out = x.new_empty(dy.shape[1], channels, 3, 3)
    tile = _tile(height, width, kind.dilation)
    library().correlate(
        tile, *map(at, (x, norms)), kind.code, *map(at, (dy, out)),
        n, height, width, channels, dy.shape[1], kind.dilation, torch.get_num_threads(),
    )  # fmt: skip
    return out
