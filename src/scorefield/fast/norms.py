"""Norms, activations and pools on a CPU in one pass, and the checks that all kernels share.

    y = f(norm(x))        f the identity, ELU, SiLU or the mean over 5 × 5 pixels

in float32 with channels innermost in memory, by the C++ in `kernels`, with first derivatives.
Everything else (higher derivatives, forward mode, batched gradients, other types, traced tensors,
shapes that do not fit) is computed by torch's operations instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from .kernels import library, unavailable_reason

Operand: TypeAlias = Tensor | None


@dataclass(frozen=True)
class Operation:
    """The part of an operation that stays the same between calls.

    Attributes:
        plain: The same function in torch's operations, of (x, affine), or of the tensors of a
            convolution (`winograd.Operands`).
        function: f; "pool" is the mean over 5 × 5 pixels.
        groups: Groups of the norm; 0 is InstanceNorm++.
        coarse: Allow large tiles, with errors of up to 1e-4; derivatives take small ones.
    """

    plain: Callable[..., Tensor]
    dilation: int = 1
    function: Literal["same", "elu", "silu", "pool"] = "same"
    groups: int = 0
    eps: float = 1e-5
    coarse: bool = False

    @property
    def code(self) -> int:
        """The activation's number in the C++ code."""
        return {"elu": 1, "silu": 2}.get(self.function, 0)


def supported(*tensors: Tensor | None) -> bool:
    """Return True if all are dense float32 on the CPU, not traced and without tangents."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return all(t is None or _is_simple(t) for t in tensors)


def _is_simple(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.is_cpu
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # from is_grads_batched
        and unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
    )


def without_hooks(*modules: nn.Module | None) -> bool:
    """Return True if no module has hooks, which only run when the module itself is called."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return not any(getattr(module, kind) for module in modules if module for kind in kinds)


def norm_fits(op: Operation, channels: int, affine: Tensor | None) -> bool:
    """Return True if the norm's table has this number of channels; if not, torch will complain."""
    if affine is None:
        return True
    if op.groups:
        return affine.shape == (1, 2, channels) and channels % op.groups == 0
    return affine.shape[1:] == (3, channels)


# ── Operations ───────────────────────────────────────────────────────────────────────────────────


def norm_activation(op: Operation, x: Tensor, affine: Tensor | None = None) -> Tensor:
    """Return f(norm(x)), where no convolution follows at once."""
    fits = x.ndim == 4 and x.numel() > 0 and norm_fits(op, x.shape[1], affine)
    if not (fits and supported(x, affine) and unavailable_reason() is None):
        return op.plain(x, affine)
    affine = None if affine is None else affine.contiguous()
    out: Tensor = _NormActivation.apply(op, x, affine)  # type: ignore[no-untyped-call]
    return out


_ELU = Operation(lambda x, affine: F.elu(x), function="elu")


def fast_elu(x: Tensor) -> Tensor:
    """Return ELU(x)."""
    return norm_activation(_ELU, x)


def fast_max_pool(x: Tensor, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the maximum over 5 × 5 pixels, as `plain` does in torch's operations."""
    if x.ndim != 4 or not supported(x) or unavailable_reason() is not None:
        return plain(x)
    out: Tensor = _MaxPool.apply(plain, x)  # type: ignore[no-untyped-call]
    return out


class _NormActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: Operation, x: Tensor, affine: Tensor | None) -> Tensor:
        inner = channels_last(x)
        norms = None if affine is None else norm_statistics(op, inner, affine, None)
        out, (n, height, width, channels) = torch.empty_like(inner), nhwc(x)
        library().activate(
            *map(pointer, (inner, norms)), op.code, pointer(out),
            n, height * width, channels, torch.get_num_threads(),
        )  # fmt: skip
        ctx.op = op
        ctx.save_for_backward(x, affine, norms)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, affine, norms = ctx.saved_tensors
        if torch.is_grad_enabled() or not supported(dy):
            return plain_backward(ctx.op.plain, ctx.needs_input_grad, dy, x, affine)
        return None, *norm_backward(
            ctx.op, channels_last(dy), channels_last(x), affine, None, norms
        )


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        inner = channels_last(x)
        out = torch.empty_like(inner)
        ctx.plain = plain
        ctx.save_for_backward(x, out)
        library().max_pool(*map(pointer, (inner, out)), *nhwc(x), torch.get_num_threads())
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, y = ctx.saved_tensors
        if torch.is_grad_enabled() or not supported(dy):
            return plain_backward(ctx.plain, ctx.needs_input_grad, dy, x)
        inner, dy = channels_last(x), channels_last(dy)
        dx = torch.zeros_like(inner)
        pointers = map(pointer, (inner, y, dy, dx))
        library().max_pool_backward(*pointers, *nhwc(x), torch.get_num_threads())
        return None, dx


def plain_backward(
    plain: Callable[..., Tensor], needed: tuple[bool, ...], dy: Tensor, *inputs: Tensor | None
) -> Any:
    """Return gradients that can be differentiated again, from torch's operations."""
    with torch.enable_grad():
        y = plain(*inputs)
    wanted = [t for t, need in zip(inputs, needed[1:], strict=True) if need and t is not None]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))
    return None, *(next(grads) if need else None for need in needed[1:])


# ── Calls ────────────────────────────────────────────────────────────────────────────────────────


def pointer(t: Tensor | None) -> int | None:
    """Return the address of a tensor's memory."""
    return None if t is None else t.data_ptr()


def nhwc(x: Tensor) -> tuple[int, int, int, int]:
    """Return the sizes of an image batch in the kernels' order."""
    n, channels, height, width = x.shape
    return n, height, width, channels


def channels_last(x: Tensor) -> Tensor:
    """Return x, detached, with its channels innermost in memory."""
    return x.detach().contiguous(memory_format=torch.channels_last)


def padded_channels(channels: int) -> int:
    """Return the largest number to which a kernel rounds channels up."""
    return -(-channels // 16) * 16


def norm_statistics(op: Operation, x: Tensor, affine: Tensor, level: Tensor | None) -> Tensor:
    """Return mean, scale, offset and 1/deviation of each image and channel (`vectors.h`)."""
    n, channels, height, width = x.shape
    norms = x.new_empty(n, 4, padded_channels(channels))
    levels_exist = library().statistics(
        *map(pointer, (x, affine, level, norms)), n, height * width, channels, op.groups,
        len(affine), op.eps, torch.get_num_threads(),
    )  # fmt: skip
    if not levels_exist:
        raise IndexError(f"a noise level is outside the table of {len(affine)}: {level}")
    return norms


def box_filter(x: Tensor, norms: Tensor | None) -> Tensor:
    """Return the mean over 5 × 5 pixels of norm(x)."""
    out = torch.empty_like(x)
    library().box(*map(pointer, (x, norms, out)), *nhwc(x), torch.get_num_threads())
    return out


def norm_backward(
    op: Operation, da: Tensor, x: Tensor, affine: Operand, level: Operand, norms: Operand
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients by x and by the norm's table, from that by f(norm(x))."""
    if op.function == "pool":
        da = box_filter(da, None)
    if affine is None and not op.code:
        return da, None
    n, channels, height, width = x.shape
    dx = torch.empty_like(x)
    rows = None if affine is None else affine.new_empty(n, *affine.shape[1:])
    library().normalize_backward(
        *map(pointer, (da, x, norms)), op.code, *map(pointer, (affine, level, dx, rows)),
        n, height * width, channels, op.groups, op.eps, torch.get_num_threads(),
    )  # fmt: skip
    if affine is None or rows is None:
        return dx, None
    if level is None:
        return dx, rows.sum(0, keepdim=True)
    return dx, torch.zeros_like(affine).index_add_(0, level, rows)
