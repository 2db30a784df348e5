"""Norms, activations and pools on a CPU in one pass, and what kernels ask of tensors.

    y = f(norm(x))        f the identity, ELU, SiLU or a pool over 5 × 5 pixels

in float32 with channels innermost in memory, by the C++ of `kernels`. The fast way has first
derivatives. Whatever else is asked for (higher ones, forward mode, several at once, other types,
tensors that are traced, shapes that do not fit) goes the plain way, without being told to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from .kernels import library, why_not


@dataclass(frozen=True)
class Kind:
    """What does not change between calls.

    Attributes:
        plain: The same in differentiable operations: of (x, affine, level, weight, bias, plus), or
            of as many of them as there are.
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


def _simple(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.is_cpu
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # of is_grads_batched
        and unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
    )


def bare(*modules: nn.Module | None) -> bool:
    """Whether none has hooks of torch's, which wait for it to be called."""
    return not any(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        for module in modules
        if module is not None
    )


def norm_fits(kind: Kind, channels: int, affine: Tensor | None) -> bool:
    """Whether the norm's table is of so many channels; torch says what is wrong if not."""
    if affine is None:
        return True
    if kind.groups:
        return affine.shape == (1, 2, channels) and channels % kind.groups == 0
    return affine.shape[1:] == (3, channels)


# ── Operations ───────────────────────────────────────────────────────────────────────────────────


def activated(kind: Kind, x: Tensor, affine: Tensor | None = None) -> Tensor:
    """f(norm(x)), where no convolution follows at once; kind.plain is of (x, affine)."""
    fits = x.ndim == 4 and x.numel() > 0 and norm_fits(kind, x.shape[1], affine)
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
        inner = inner_of(x)
        norms = None if affine is None else statistics(kind, inner, affine, None)
        out, (n, height, width, channels) = torch.empty_like(inner), sizes(x)
        library().activate(
            *map(at, (inner, norms)), kind.code, at(out),
            n, height * width, channels, torch.get_num_threads(),
        )  # fmt: skip
        ctx.kind = kind
        ctx.save_for_backward(x, affine, norms)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, affine, norms = ctx.saved_tensors
        if torch.is_grad_enabled() or not takes(dy):
            return plainly(ctx.kind, ctx.needs_input_grad, dy, x, affine)
        return None, *norm_backward(ctx.kind, inner_of(dy), inner_of(x), affine, None, norms)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        inner = inner_of(x)
        out = torch.empty_like(inner)
        ctx.plain = plain
        ctx.save_for_backward(x, out)
        library().largest(*map(at, (inner, out)), *sizes(x), torch.get_num_threads())
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, y = ctx.saved_tensors
        if torch.is_grad_enabled() or not takes(dy):
            return plainly(Kind(ctx.plain), ctx.needs_input_grad, dy, x)
        inner, dy = inner_of(x), inner_of(dy)
        dx = torch.zeros_like(inner)
        library().largest_backward(*map(at, (inner, y, dy, dx)), *sizes(x), torch.get_num_threads())
        return None, dx


def plainly(kind: Kind, needed: tuple[bool, ...], dy: Tensor, *inputs: Tensor | None) -> Any:
    """Derivatives that can be differentiated again."""
    with torch.enable_grad():
        y = kind.plain(*inputs)
    wanted = [t for t, need in zip(inputs, needed[1:], strict=True) if need and t is not None]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))
    return None, *(next(grads) if need else None for need in needed[1:])


# ── Calls ────────────────────────────────────────────────────────────────────────────────────────


def at(t: Tensor | None) -> int | None:
    """Where its numbers lie."""
    return None if t is None else t.data_ptr()


def sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Of an image in the kernels' order."""
    n, channels, height, width = x.shape
    return n, height, width, channels


def inner_of(x: Tensor) -> Tensor:
    """x with its channels innermost in memory."""
    return x.detach().contiguous(memory_format=torch.channels_last)


def padded(channels: int) -> int:
    """What the kernels round channels up to, at most."""
    return -(-channels // 16) * 16


def statistics(kind: Kind, x: Tensor, affine: Tensor, level: Tensor | None) -> Tensor:
    """Of each image and channel what `vectors.h` calls a norm."""
    n, channels, height, width = x.shape
    norms = x.new_empty(n, 4, padded(channels))
    known = library().statistics(
        *map(at, (x, affine, level, norms)), n, height * width, channels, kind.groups, len(affine),
        kind.eps, torch.get_num_threads(),
    )  # fmt: skip
    if not known:
        raise IndexError(f"a noise level beyond the table of {len(affine)}: {level}")
    return norms


def box(x: Tensor, norms: Tensor | None) -> Tensor:
    """The mean over 5 × 5 pixels of norm(x)."""
    n, channels, height, width = x.shape
    out = torch.empty_like(x)
    library().box(*map(at, (x, norms, out)), n, height, width, channels, torch.get_num_threads())
    return out


def norm_backward(
    kind: Kind,
    da: Tensor,
    x: Tensor,
    affine: Tensor | None,
    level: Tensor | None,
    norms: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """From the gradient by f(norm(x)) those by x and by the norm's table."""
    if kind.function == "pool":
        da = box(da, None)
    if affine is None and not kind.code:
        return da, None
    n, channels, height, width = x.shape
    dx = torch.empty_like(x)
    rows = None if affine is None else affine.new_empty(n, *affine.shape[1:])
    library().normalize_backward(
        *map(at, (da, x, norms)), kind.code, *map(at, (affine, level, dx, rows)),
        n, height * width, channels, kind.groups, kind.eps, torch.get_num_threads(),
    )  # fmt: skip
    if affine is None or rows is None:
        return dx, None
    if level is None:
        return dx, rows.sum(0, keepdim=True)
    return dx, torch.zeros_like(affine).index_add_(0, level, rows)
