"""3 × 3 convolutions on a CPU with a quarter of the multiplications, fused with their neighbours.

    y = conv(f(norm(x))) + bias + plus      f the identity, ELU, SiLU or the mean over 5 × 5 pixels

by F(4 × 4, 3 × 3) or F(5 × 5, 3 × 3) of Lavin & Gray 2016, in float32, by the C++ in `kernels`.
Where that is unavailable (`kernels.unavailable_reason`), or asked for something that it cannot do
(`norms`), torch's operations compute the same.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import norms
from .kernels import library, unavailable_reason
from .norms import Operation, channels_last, nhwc, pointer, supported

# ── Tiles ────────────────────────────────────────────────────────────────────────────────────────

LARGE_TILE_COST = 1.15
"""Relative time of a multiplication in the largest tiles, fewer of which fit into a cache."""


@functools.cache
def pays(height: int, width: int, dilation: int) -> bool:
    """Return True if tiles fit images of this size well enough to save multiplications."""
    tile = _tile(height, width, dilation)
    return _multiplications(height, width, dilation, tile) <= 0.6 * 9 * height * width


@functools.cache
def _tile(height: int, width: int, dilation: int, coarse: bool = False) -> int:
    """Return the cheapest tile size: outputs along each axis."""
    costs = {4: 1.0, 5: 1.0, 7: LARGE_TILE_COST} if coarse else {4: 1.0, 5: 1.0}
    return min(costs, key=lambda t: costs[t] * _multiplications(height, width, dilation, t))


def _multiplications(height: int, width: int, dilation: int, tile: int) -> int:
    """Number of multiplications for one pair of channels."""
    down, across = ((-(-size // dilation) + tile - 1) // tile for size in (height, width))
    return (tile + 2) ** 2 * dilation**2 * down * across


# ── The operation ────────────────────────────────────────────────────────────────────────────────


class Operands(NamedTuple):
    """The tensors of a convolution, in the order in which its `plain` function takes them.

    The bias may be a row for each image, `affine` is the norm's table, `level` its row for each.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None
    affine: Tensor | None = None
    level: Tensor | None = None
    plus: Tensor | None = None


def convolve(op: Operation, t: Operands) -> Tensor:
    """Return conv(f(norm(x))) + bias + plus, with channels innermost in memory."""
    floats = t._replace(level=None)
    if not (
        supported(*floats)
        and _shapes_fit(op, t)
        and pays(t.x.shape[2], t.x.shape[3], op.dilation)
        and unavailable_reason() is None
    ):
        return op.plain(*t)
    # as the kernels read them
    level = None if t.level is None else t.level.long().contiguous()
    affine, bias = (p if p is None else p.contiguous() for p in (t.affine, t.bias))
    t = t._replace(affine=affine, bias=bias, level=level)
    if torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in floats):
        out: Tensor = _Convolve.apply(op, *t)  # type: ignore[no-untyped-call]
        return out
    tile = _tile(t.x.shape[2], t.x.shape[3], op.dilation, op.coarse)
    return _forward(op, tile, t, _cached_weights(t.weight, tile))[0]


def _shapes_fit(op: Operation, t: Operands) -> bool:
    """Return True if shapes are as the kernels assume; if not, torch will say what is wrong."""
    x, weight, bias, affine, level, plus = t
    if x.ndim != 4 or x.numel() == 0 or weight.shape[1:] != (x.shape[1], 3, 3):
        return False
    features, (n, channels, *size) = len(weight), x.shape
    return (
        norms.norm_fits(op, channels, affine)
        and (affine is None or level is not None or len(affine) == 1)
        and (level is None or (level.is_cpu and level.shape == (n,)))
        and (bias is None or bias.shape in ((features,), (n, features)))
        and (plus is None or plus.shape == (n, features, *size))
    )


def _forward(
    op: Operation, tile: int, t: Operands, u: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the result, and the norm's statistics and the pooled image for its derivative."""
    x, features = channels_last(t.x), len(t.weight)
    stats = None if t.affine is None else norms.norm_statistics(op, x, t.affine, t.level)
    pooled = norms.box_filter(x, stats) if op.function == "pool" else None
    source, norm = (x, stats) if pooled is None else (pooled, None)
    plus = None if t.plus is None else channels_last(t.plus)
    out = _convolve_tiles(source, u, features, op.dilation, tile, op.code, norm, t.bias, plus)
    return out, stats, pooled


class _Convolve(torch.autograd.Function):
    """First derivatives by kernels; with `create_graph` by torch's operations."""

    @staticmethod
    def forward(ctx: Any, op: Operation, *tensors: Any) -> Tensor:
        t = Operands(*tensors)
        tile = _tile(t.x.shape[2], t.x.shape[3], op.dilation)
        out, stats, pooled = _forward(op, tile, t, _transformed_weights(t.weight, tile))
        ctx.op = op
        ctx.save_for_backward(*t, stats, pooled)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        op, (*tensors, stats, pooled) = ctx.op, ctx.saved_tensors
        if torch.is_grad_enabled() or not supported(dy):
            return norms.plain_backward(op.plain, ctx.needs_input_grad, dy, *tensors)
        t = Operands(*tensors)
        _, needs_x, needs_weight, needs_bias, needs_affine, _, needs_plus = ctx.needs_input_grad
        x, dy = channels_last(t.x), channels_last(dy)
        tile = _tile(x.shape[2], x.shape[3], op.dilation)
        dx = daffine = dweight = dbias = None
        if needs_weight:
            source, norm = (x, stats) if pooled is None else (pooled, None)
            dweight = torch.empty_like(t.weight, memory_format=torch.contiguous_format)
            library().correlate(
                tile, *map(pointer, (source, norm)), op.code, *map(pointer, (dy, dweight)),
                *nhwc(x), dy.shape[1], op.dilation, torch.get_num_threads(),
            )  # fmt: skip
        if needs_x or needs_affine:
            back = _transformed_weights(t.weight, tile, transposed=True)
            da = _convolve_tiles(dy, back, x.shape[1], op.dilation, tile)
            dx, daffine = norms.norm_backward(op, da, x, t.affine, t.level, stats)
        if needs_bias:
            assert t.bias is not None
            dbias = dy.sum((2, 3) if t.bias.ndim == 2 else (0, 2, 3))
        return None, dx, dweight, dbias, daffine, None, dy if needs_plus else None


# ── Calls ────────────────────────────────────────────────────────────────────────────────────────


def _transformed_weights(weight: Tensor, tile: int, *, transposed: bool = False) -> Tensor:
    """Return G g Gᵀ, for the convolution or for its transpose."""
    weight = weight.detach().contiguous()
    features, channels = weight.shape[:2]
    steps = 9 * channels, 9
    if transposed:
        features, channels, steps = channels, features, steps[::-1]
    u = weight.new_empty((tile + 2) ** 2, channels, norms.padded_channels(features))
    library().transform_weights(
        tile, pointer(weight), *steps, transposed,
        channels, features, pointer(u), torch.get_num_threads(),
    )  # fmt: skip
    return u


_CACHE: MutableMapping[Tensor, tuple[tuple[Any, ...], Tensor]] = WeakTensorKeyDictionary()
"""Transformed weights of networks that are not being trained, each with its key."""


def _cached_weights(weight: Tensor, tile: int) -> Tensor:
    # keyed by values: fused optimisers and `.data` change them without a new version
    values = weight.detach().contiguous()
    key = (tile, values.shape, _fingerprint(values))
    cached = _CACHE.get(weight)
    if cached is None or cached[0] != key:
        cached = _CACHE[weight] = key, _transformed_weights(values, tile)
    return cached[1]


def _fingerprint(x: Tensor) -> bytes:
    """Return a hash of the bits of x; two tensors collide with probability 2⁻³²."""
    out = ctypes.create_string_buffer(4 * 4 * 16)
    library().fingerprint(pointer(x), x.numel(), out, torch.get_num_threads())
    return out.raw


def _convolve_tiles(
    x: Tensor,
    u: Tensor,
    features: int,
    dilation: int,
    tile: int,
    function: int = 0,
    stats: Tensor | None = None,
    bias: Tensor | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    n, channels, height, width = x.shape
    bias_step = features if bias is not None and bias.ndim == 2 else 0
    # x's type and device, not torch's defaults, which a user may have changed
    out = x.new_empty(n, height, width, features).permute(0, 3, 1, 2)
    library().convolve(
        tile, *map(pointer, (x, stats)), function,
        *map(pointer, (u, bias)), bias_step, *map(pointer, (plus, out)),
        n, height, width, channels, features, dilation, torch.get_num_threads(),
    )  # fmt: skip
    return out
