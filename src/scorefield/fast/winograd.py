"""3 × 3 convolutions on a CPU with a quarter of the multiplications, fused with their neighbours.

    y = conv(f(norm(x))) + bias + plus      f the identity, ELU, SiLU or the mean over 5 × 5 pixels

by F(4 × 4, 3 × 3) or F(5 × 5, 3 × 3) of Lavin & Gray 2016, in float32, by the C++ in `kernels`.
What the kernels cannot do (`norms`) is computed by torch's operations.
"""

import ctypes
import functools
from collections.abc import MutableMapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..nn.blocks import per_channel
from . import norms
from .norms import Function, Operand, call, channels_last, kernels_accept, nhwc, operation

# ── Tiles ────────────────────────────────────────────────────────────────────────────────────────

LARGE_TILE_COST = 1.15
"""Relative time of a multiplication in the largest tiles, fewer of which fit into a cache."""


def pays(height: int, width: int, dilation: int) -> bool:
    """Return True if tiles fit images of this size well enough to save multiplications."""
    fewest = min(_multiplications(height, width, dilation, tile) for tile in (4, 5))
    return fewest <= 0.6 * 9 * height * width


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


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Operand,
    affine: Operand = None,
    level: Operand = None,
    plus: Operand = None,
    *,
    dilation: int = 1,
    function: Function = "same",
    groups: int = 0,
    eps: float = 0.0,
    coarse: bool = False,
) -> Tensor:
    """Return conv(f(norm(x))) + bias + plus, with channels innermost in memory.

    The bias may be a row for each image, `affine` is the norm's table, `level` its row for each
    image, and without groups the norm is InstanceNorm++. `coarse` allows large tiles, with errors
    of up to 1e-4, where no derivative is taken.
    """
    floats, settings = (x, weight, bias, affine, plus), (dilation, function, groups, eps)
    level = None if level is None else level.long()
    tensors = x, weight, bias, affine, level, plus
    fits = kernels_accept(*floats) and _shapes_fit(*tensors, groups=groups)
    if not fits or not pays(x.shape[2], x.shape[3], dilation):
        return _plain_conv3x3(*tensors, *settings)
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in floats)
    return _conv3x3(*tensors, *settings, coarse and not trains, trains)[0]


def _shapes_fit(*tensors: Any, groups: int) -> bool:
    """Return True if shapes are as the kernels assume; for others torch raises the error."""
    x, weight, bias, affine, level, plus = tensors
    if x.ndim != 4 or x.numel() == 0 or weight.shape[1:] != (x.shape[1], 3, 3):
        return False
    features, (n, channels, *size) = len(weight), x.shape
    return bool(
        norms.norm_fits(affine, channels, groups)
        and (affine is None or level is not None or len(affine) == 1)
        and (level is None or (level.is_cpu and level.shape == (n,)))
        and (bias is None or bias.shape in ((features,), (n, features)))
        and (plus is None or plus.shape == (n, features, *size))
    )


def _plain_conv3x3(*arguments: Any) -> Tensor:
    x, weight, bias, affine, level, plus, dilation, *norm = arguments
    h = norms.plain_norm(x, affine, level, *norm)
    shared = None if bias is None or bias.ndim == 2 else bias
    out = F.conv2d(h, weight, shared, padding=dilation, dilation=dilation)
    out = out if bias is shared else out + per_channel(bias, out)
    return out if plus is None else out + plus


@operation(
    "winograd_conv3x3_input_backward(Tensor dy, Tensor weight, int dilation) -> Tensor",
    lambda dy, weight, dilation: _empty_images(dy, weight.shape[1]),
)
def _input_gradient(dy: Tensor, weight: Tensor, dilation: int) -> Tensor:
    tile = _tile(dy.shape[2], dy.shape[3], dilation)
    back = _transform_weights(weight, tile, transposed=True)
    return _convolve(channels_last(dy), None, back, weight.shape[1], dilation, tile)


@operation(
    "winograd_conv3x3_weight_backward(Tensor dy, Tensor source, Tensor? stats, int dilation,"
    " str function) -> Tensor",
    lambda dy, source, *others: dy.new_empty(dy.shape[1], source.shape[1], 3, 3),
)
def _weight_gradient(
    dy: Tensor, source: Tensor, stats: Operand, dilation: int, function: Function
) -> Tensor:
    source, code, (_, features, *size) = channels_last(source), norms.CODES[function], dy.shape
    dweight, tile = dy.new_empty(features, source.shape[1], 3, 3), _tile(*size, dilation)
    pointers = source, stats, code, channels_last(dy), dweight
    call("correlate", tile, *pointers, *nhwc(source), features, dilation)
    return dweight


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.settings = inputs[6:10]
    ctx.save_for_backward(*inputs[:6], *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor, *_: Operand) -> tuple[Operand, ...]:
    (*tensors, stats, pooled), (dilation, function, groups, eps) = ctx.saved_tensors, ctx.settings
    if torch.is_grad_enabled() or not kernels_accept(dy):
        return norms.plain_gradients(_plain_conv3x3, ctx, dy, tensors, *ctx.settings)
    x, weight, bias, affine, level, _ = tensors
    needs_x, needs_weight, needs_bias, needs_affine, _, needs_plus, *others = ctx.needs_input_grad
    dx = dweight = dbias = daffine = None
    if needs_weight:
        source = (pooled, None) if function == "pool" else (x, stats)
        dweight = _weight_gradient(dy, *source, dilation, function)
    if needs_x or needs_affine:
        dx = _input_gradient(dy, weight, dilation)
        if affine is not None or function != "same":
            dx, table = norms.norm_gradients(dx, x, affine, level, stats, function, groups, eps)
            daffine = None if affine is None else table
    if needs_bias:
        dbias = dy.sum((2, 3) if bias.ndim == 2 else (0, 2, 3))
    dplus = dy if needs_plus else None
    return dx, dweight, dbias, daffine, None, dplus, *[None] * len(others)


@operation(
    "winograd_conv3x3(Tensor x, Tensor weight, Tensor? bias, Tensor? affine, Tensor? level,"
    " Tensor? plus, int dilation, str function, int groups, float eps, bool coarse, bool training)"
    " -> (Tensor, Tensor, Tensor)",
    lambda x, weight, bias, affine, level, plus, dilation, function, *_: (
        _empty_images(x, len(weight)),
        norms.empty_statistics(x, affine),
        torch.empty_like(channels_last(x)) if function == "pool" else x.new_empty(0),
    ),
    _setup,
    _backward,
)
def _conv3x3(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result, and the norm's statistics and the pooled image for its derivative."""
    x, weight, bias, affine, level, plus, dilation, function, *norm, coarse, training = inputs
    x, tile = channels_last(x), _tile(x.shape[2], x.shape[3], dilation, coarse)
    u = _transform_weights(weight, tile) if training else _weights_from_cache(weight, tile)
    stats = norms.norm_statistics(x, affine, level, *norm)
    pooled = norms.box_filter(x, stats) if function == "pool" else x.new_empty(0)
    source, table = (pooled, None) if function == "pool" else (x, stats)
    out = _convolve(source, table, u, len(weight), dilation, tile, function, bias, plus)
    return out, stats, pooled


# ── Calls ────────────────────────────────────────────────────────────────────────────────────────


def _transform_weights(weight: Tensor, tile: int, *, transposed: bool = False) -> Tensor:
    """Return G g Gᵀ, for the convolution or for its transpose."""
    weight, (features, channels) = weight.contiguous(), weight.shape[:2]
    steps = 9 * channels, 9
    if transposed:
        features, channels, steps = channels, features, steps[::-1]
    u = weight.new_empty((tile + 2) ** 2, channels, norms.round_up_channels(features))
    call("transform_weights", tile, weight, *steps, transposed, channels, features, u)
    return u


_CACHE: MutableMapping[Tensor, tuple[tuple[Any, ...], Tensor]] = WeakTensorKeyDictionary()
"""Transformed weights of networks that are not being trained, each with its key."""


def _weights_from_cache(weight: Tensor, tile: int) -> Tensor:
    # keyed by values: fused optimisers and `.data` change them without a new version
    values = weight.contiguous()
    key = (tile, values.shape, _fingerprint(values))
    cached = _CACHE.get(weight)
    if cached is None or cached[0] != key:
        cached = _CACHE[weight] = key, _transform_weights(values, tile)
    return cached[1]


def _fingerprint(x: Tensor) -> bytes:
    """Return a hash of the bits of x; two tensors collide with probability 2⁻³²."""
    out = ctypes.create_string_buffer(4 * 4 * 16)
    call("fingerprint", x, x.numel(), out)
    return out.raw


def _empty_images(x: Tensor, features: int) -> Tensor:
    # x's type and device, not torch's defaults, which a user may have changed
    n, height, width, _ = nhwc(x)
    return x.new_empty(n, height, width, features).permute(0, 3, 1, 2)


def _convolve(
    x: Tensor,
    stats: Operand,
    u: Tensor,
    features: int,
    dilation: int,
    tile: int,
    function: Function = "same",
    bias: Operand = None,
    plus: Operand = None,
) -> Tensor:
    out, step = _empty_images(x, features), features if bias is not None and bias.ndim == 2 else 0
    bias, code = norms.contiguous(bias), norms.CODES[function]
    plus = None if plus is None else channels_last(plus)
    call("convolve", tile, x, stats, code, u, bias, step, plus, out, *nhwc(x), features, dilation)
    return out
