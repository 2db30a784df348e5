"""3 × 3 convolutions on a CPU with a quarter of the multiplications, and what surrounds them.

    y = conv(f(norm(x))) + bias + plus      f the identity, ELU, SiLU or the mean over 5 × 5 pixels

by F(4 × 4, 3 × 3) or F(5 × 5, 3 × 3) of Lavin & Gray 2016, in float32, in the C++ of `kernels`.
Where that is not to be had, `kernels.why_not` says why, and the ordinary operations do the same.

The fast way has first derivatives. Whatever else is asked for (higher ones, forward mode, several
at once, other types, tensors that are traced, shapes that do not fit) goes the plain way, without
being told to.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils.weak import WeakTensorKeyDictionary

from .kernels import library, why_not

# ── The operation ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Kind:
    """What does not change between calls.

    Attributes:
        plain: The same in differentiable operations, of (x, affine, level, weight, bias, plus).
        dilation: Of the convolution.
        function: f; "pool" is the mean over 5 × 5 pixels.
        groups: Of the norm; 0 is InstanceNorm++.
        eps: Of the norm.
        coarse: Whether tiles may be large, which errs by up to 1e-4; derivatives take small ones.
    """

    plain: Callable[..., Tensor]
    dilation: int = 1
    function: Literal["same", "elu", "silu", "pool"] = "same"
    groups: int = 0
    eps: float = 1e-5
    coarse: bool = False

    @property
    def code(self) -> int:
        """The function's number among the kernels' own."""
        return {"elu": 1, "silu": 2}.get(self.function, 0)


def takes(*tensors: Tensor | None) -> bool:
    """Whether these can go the fast way: dense float32 on a CPU, not traced, without tangents."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return all(t is None or _simple(t) for t in tensors)


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


def _simple(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.is_cpu
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # of is_grads_batched
        and unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
    )


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
        _norm_fits(kind, channels, affine)
        and (affine is None or level is not None or len(affine) == 1)
        and (level is None or (level.is_cpu and level.shape == (n,)))
        and (bias is None or bias.shape in ((features,), (n, features)))
        and (plus is None or plus.shape == (n, features, *size))
    )


def _norm_fits(kind: Kind, channels: int, affine: Tensor | None) -> bool:
    if affine is None:
        return True
    if kind.groups:
        return affine.shape == (1, 2, channels) and channels % kind.groups == 0
    return affine.shape[1:] == (3, channels)


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
    inner = _inner(x)
    norms = None if affine is None else _statistics(kind, inner, affine, level)
    pooled = kind.function == "pool"
    seen = _box(inner, norms) if pooled else None
    out = _apply(
        inner if seen is None else seen,
        u,
        features,
        kind.dilation,
        tile,
        norms=None if pooled else norms,
        function=kind.code,
        bias=bias,
        plus=None if plus is None else _inner(plus),
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
            return _plainly(kind, needed, dy, x, affine, level, weight, bias, plus)
        inner, dy = _inner(x), _inner(dy)
        dx = dtable = dweight = None
        if needed[4]:
            source, norm = (inner, norms) if seen is None else (seen, None)
            dweight = _correlate(source, norm, kind, dy)
        if needed[1] or needed[2]:
            tile = _tile(x.shape[2], x.shape[3], kind.dilation)
            back = _weights(weight, tile, transposed=True)
            da = _apply(dy, back, weight.shape[1], kind.dilation, tile)
            dx, dtable = _before(kind, da, inner, affine, level, norms)
        dbias = None
        if needed[5]:
            dbias = dy.sum((2, 3) if bias.ndim == 2 else (0, 2, 3))
        return None, dx, dtable, None, dweight, dbias, dy if needed[6] else None


def _plainly(kind: Kind, needed: tuple[bool, ...], dy: Tensor, *inputs: Tensor | None) -> Any:
    """Derivatives that can be differentiated again."""
    with torch.enable_grad():
        y = kind.plain(*inputs)
    wanted = [t for t, need in zip(inputs, needed[1:], strict=True) if need and t is not None]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))
    return None, *(next(grads) if need else None for need in needed[1:])


def _before(
    kind: Kind,
    da: Tensor,
    x: Tensor,
    affine: Tensor | None,
    level: Tensor | None,
    norms: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """From the gradient by f(norm(x)) those by x and by the norm's table."""
    if kind.function == "pool":
        da = _box(da, None)
    if affine is None and not kind.code:
        return da, None
    n, channels, height, width = x.shape
    dx = torch.empty_like(x)
    rows = None if affine is None else affine.new_empty(n, *affine.shape[1:])
    library().normalize_backward(
        *map(_at, (da, x, norms)), kind.code, *map(_at, (affine, level, dx, rows)),
        n, height * width, channels, kind.groups, kind.eps, torch.get_num_threads(),
    )  # fmt: skip
    if affine is None or rows is None:
        return dx, None
    if level is None:
        return dx, rows.sum(0, keepdim=True)
    return dx, torch.zeros_like(affine).index_add_(0, level, rows)


# ── Beside convolutions ──────────────────────────────────────────────────────────────────────────


def activated(kind: Kind, x: Tensor, affine: Tensor | None = None) -> Tensor:
    """f(norm(x)), where no convolution follows at once; kind.plain is of (x, affine)."""
    fits = x.ndim == 4 and x.numel() > 0 and _norm_fits(kind, x.shape[1], affine)
    if not (fits and takes(x, affine) and why_not() is None):
        return kind.plain(x, affine)
    affine = None if affine is None else affine.contiguous()
    out: Tensor = _Activated.apply(kind, x, affine)  # type: ignore[no-untyped-call]
    return out


_ELU = Kind(lambda x, affine: F.elu(x), function="elu")


def elu(x: Tensor) -> Tensor:
    """ELU."""
    return activated(_ELU, x)


def max_pool(x: Tensor, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """The maximum over 5 × 5 pixels, as `plain` computes it in operations of every derivative."""
    if x.ndim != 4 or not takes(x) or why_not() is not None:
        return plain(x)
    out: Tensor = _MaxPool.apply(plain, x)  # type: ignore[no-untyped-call]
    return out


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: Kind, x: Tensor, affine: Tensor | None) -> Tensor:
        inner = _inner(x)
        norms = None if affine is None else _statistics(kind, inner, affine, None)
        out, (n, height, width, channels) = torch.empty_like(inner), _sizes(x)
        library().activate(
            *map(_at, (inner, norms)), kind.code, _at(out),
            n, height * width, channels, torch.get_num_threads(),
        )  # fmt: skip
        ctx.kind = kind
        ctx.save_for_backward(x, affine, norms)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, affine, norms = ctx.saved_tensors
        if torch.is_grad_enabled() or not takes(dy):
            return _plainly(ctx.kind, ctx.needs_input_grad, dy, x, affine)
        return None, *_before(ctx.kind, _inner(dy), _inner(x), affine, None, norms)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        inner = _inner(x)
        out = torch.empty_like(inner)
        ctx.plain = plain
        ctx.save_for_backward(x, out)
        library().largest(*map(_at, (inner, out)), *_sizes(x), torch.get_num_threads())
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, y = ctx.saved_tensors
        if torch.is_grad_enabled() or not takes(dy):
            return None, _derivative(ctx.plain, x, dy)
        inner, dy = _inner(x), _inner(dy)
        dx = torch.zeros_like(inner)
        library().largest_backward(
            *map(_at, (inner, y, dy, dx)), *_sizes(x), torch.get_num_threads()
        )
        return None, dx


def _derivative(plain: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor) -> Tensor:
    """xᵀ-derivative that can be differentiated again."""
    with torch.enable_grad():
        y = plain(x)
    return torch.autograd.grad(y, x, dy, create_graph=torch.is_grad_enabled())[0]


# ── Calls ────────────────────────────────────────────────────────────────────────────────────────


def _at(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Of an image in the kernels' order."""
    n, channels, height, width = x.shape
    return n, height, width, channels


def _inner(x: Tensor) -> Tensor:
    """x with its channels innermost in memory."""
    return x.detach().contiguous(memory_format=torch.channels_last)


def _padded(channels: int) -> int:
    """What the kernels round channels up to, at most."""
    return -(-channels // 16) * 16


def _weights(weight: Tensor, tile: int, *, transposed: bool = False) -> Tensor:
    """G g Gᵀ, for the convolution or for its transpose."""
    weight = weight.detach().contiguous()
    features, channels = weight.shape[:2]
    steps = 9 * channels, 9
    if transposed:
        features, channels, steps = channels, features, steps[::-1]
    u = weight.new_empty((tile + 2) ** 2, channels, _padded(features))
    library().transform_weights(
        tile, _at(weight), *steps, transposed,
        channels, features, _at(u), torch.get_num_threads(),
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
    library().fingerprint(_at(x), x.numel(), out, torch.get_num_threads())
    return out.raw


def _statistics(kind: Kind, x: Tensor, affine: Tensor, level: Tensor | None) -> Tensor:
    n, channels, height, width = x.shape
    norms = x.new_empty(n, 4, _padded(channels))
    known = library().statistics(
        *map(_at, (x, affine, level, norms)), n, height * width, channels, kind.groups, len(affine),
        kind.eps, torch.get_num_threads(),
    )  # fmt: skip
    if not known:
        raise IndexError(f"a noise level beyond the table of {len(affine)}: {level}")
    return norms


def _box(x: Tensor, norms: Tensor | None) -> Tensor:
    n, channels, height, width = x.shape
    out = torch.empty_like(x)
    library().box(*map(_at, (x, norms, out)), n, height, width, channels, torch.get_num_threads())
    return out


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
        tile, *map(_at, (x, norms)), function,
        *map(_at, (u, bias)), bias_step, *map(_at, (plus, out)),
        n, height, width, channels, features, dilation, torch.get_num_threads(),
    )  # fmt: skip
    return out


def _correlate(x: Tensor, norms: Tensor | None, kind: Kind, dy: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    out = x.new_empty(dy.shape[1], channels, 3, 3)
    tile = _tile(height, width, kind.dilation)
    library().correlate(
        tile, *map(_at, (x, norms)), kind.code, *map(_at, (dy, out)),
        n, height, width, channels, dy.shape[1], kind.dilation, torch.get_num_threads(),
    )  # fmt: skip
    return out
