"""Norms, activations and pools on a CPU in one pass, and what all kernels share.

    y = f(norm(x))        f the identity, ELU or SiLU

in float32 with channels innermost in memory, by the C++ in `kernels`, with first derivatives.
Each kernel is an operation of `torch.library` (`torch.ops.scorefield`), so that `torch.compile` and
`torch.export` see one node. Everything else (higher derivatives, forward mode, batched gradients,
other types, shapes that do not fit) is computed by torch's own operations.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from ..nn.blocks import group_norm
from ..nn.layers import identity, instance_norm_plus, max_pool, mean_pool
from .kernels import library

Operand: TypeAlias = Tensor | None
Function: TypeAlias = Literal["same", "elu", "silu", "pool"]
"""The f of an operation; "pool" is the mean over 5 × 5 pixels."""
R = TypeVar("R")

TORCH_FUNCTIONS: dict[Function, Callable[[Tensor], Tensor]] = {
    "same": identity,
    "elu": F.elu,
    "silu": F.silu,
    "pool": mean_pool,
}
CODES = {"same": 0, "elu": 1, "silu": 2, "pool": 0}
"""Number of each activation in the C++ code, where a pool is a separate operation."""

# ── Conditions ───────────────────────────────────────────────────────────────────────────────────


def kernels_accept(*tensors: Operand) -> bool:
    """Return True if all are float32 on the CPU, without tangents or batches of derivatives."""
    some = [t for t in tensors if t is not None]
    simple = all(t.dtype == torch.float32 and t.is_cpu for t in some)
    if torch.is_autocast_enabled("cpu") or not simple:
        return False
    return torch.compiler.is_compiling() or not any(
        torch._C._functorch.is_functorch_wrapped_tensor(t)
        or torch._C._functorch.is_legacy_batchedtensor(t)  # from is_grads_batched
        or unpack_dual(t).tangent is not None  # type: ignore[no-untyped-call]
        for t in some
    )


def without_hooks(*modules: nn.Module | None) -> bool:
    """Return True if no module has hooks, which only run when the module itself is called."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return not any(getattr(module, kind) for module in modules if module for kind in kinds)


def norm_fits(affine: Operand, channels: int, groups: int) -> bool:
    """Return True if the norm's table has this number of channels; if not, torch will complain."""
    if affine is None:
        return True
    if groups:
        return affine.shape == (1, 2, channels) and channels % groups == 0
    return affine.shape[1:] == (3, channels)


# ── Operations ───────────────────────────────────────────────────────────────────────────────────


def operation(
    schema: str, fake: Callable[..., Any], setup: Any = None, backward: Any = None
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Register a function of tensors on the CPU as an operation of `torch.ops.scorefield`.

    `fake` returns tensors with the shapes and strides of the results; `setup` and `backward` are
    those of `torch.library.register_autograd`. The dispatcher takes 25 µs a call, and 180 µs in
    training, so the function is called without it where no compiler is tracing.
    """
    name, _, arguments = f"scorefield::{schema}".partition("(")

    def register(kernel: Callable[..., R]) -> Callable[..., R]:
        torch.library.define(name, f"({arguments}")
        torch.library.impl(name, "cpu", kernel)
        torch.library.register_fake(name, fake)
        if backward is not None:
            torch.library.register_autograd(name, backward, setup_context=setup)

        class Direct(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = kernel(*inputs)
                setup(ctx, inputs, output)
                return output

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                return backward(ctx, *grads)

        operator: Any = getattr(torch.ops.scorefield, name.split("::")[1]).default
        differentiable: Any = kernel if backward is None else Direct.apply

        def run(*inputs: Any) -> Any:
            if torch.compiler.is_compiling() or type(inputs[0]) not in (Tensor, nn.Parameter):
                return operator(*inputs)
            return differentiable(*inputs) if torch.is_grad_enabled() else kernel(*inputs)

        return run

    return register


def plain_gradients(
    plain: Callable[..., Tensor], ctx: Any, dy: Tensor, inputs: Sequence[Operand], *settings: Any
) -> tuple[Operand, ...]:
    """Return gradients that can be differentiated again, from torch's operations."""
    with torch.enable_grad():
        y = plain(*inputs, *settings)
    wanted: Any = [t for t, need in zip(inputs, ctx.needs_input_grad, strict=False) if need]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))
    return tuple(next(grads) if need else None for need in ctx.needs_input_grad)


def norm_activation(
    x: Tensor, affine: Operand, function: Function, groups: int = 0, eps: float = 0.0
) -> Tensor:
    """Return f(norm(x)), where no convolution follows at once."""
    fits = x.ndim == 4 and x.numel() > 0 and norm_fits(affine, x.shape[1], groups)
    if fits and kernels_accept(x, affine):
        return _norm_activation(x, affine, function, groups, eps)[0]
    return plain_norm(x, affine, None, function, groups, eps)


def plain_norm(
    x: Tensor, affine: Operand, level: Operand, function: Function, groups: int, eps: float
) -> Tensor:
    """Return f(norm(x)) by torch's operations: InstanceNorm++ if there are no groups."""
    if affine is not None and groups:
        gain, bias = affine[0]
        x = group_norm(x, gain, bias, groups, eps)
    elif affine is not None:
        x = instance_norm_plus(x, affine, level, eps)
    return TORCH_FUNCTIONS[function](x)


@operation(
    "norm_activation_backward(Tensor dy, Tensor x, Tensor? affine, Tensor? level, Tensor stats,"
    " str function, int groups, float eps) -> (Tensor, Tensor)",
    lambda dy, x, affine, *_: (
        torch.empty_like(channels_last(x)),
        x.new_empty(0 if affine is None else affine.shape),
    ),
)
def norm_gradients(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Return the gradients by x and by the norm's table, from that by f(norm(x))."""
    dy, x, affine, level, stats, function, groups, eps = inputs
    dy, x, (n, height, width, channels) = channels_last(dy), channels_last(x), nhwc(x)
    if function == "pool":
        dy = box_filter(dy, None)
        if affine is None:
            return dy, x.new_empty(0)
    affine, level, dx = contiguous(affine), contiguous(level), torch.empty_like(x)
    rows = x.new_empty(0 if affine is None else (n, *affine.shape[1:]))
    call(
        "normalize_backward", dy, x, stats, CODES[function], affine, level, dx, rows,
        n, height * width, channels, groups, eps,
    )  # fmt: skip
    if affine is None or level is None:
        return dx, rows if affine is None else rows.sum(0, keepdim=True)
    return dx, torch.zeros_like(affine).index_add_(0, level, rows)


def _norm_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, affine, *ctx.settings = inputs
    ctx.save_for_backward(x, affine, output[1])
    ctx.set_materialize_grads(False)


def _norm_backward(ctx: Any, dy: Tensor, _: Operand) -> tuple[Operand, ...]:
    x, affine, stats = ctx.saved_tensors
    if torch.is_grad_enabled() or not kernels_accept(dy):
        return plain_gradients(plain_norm, ctx, dy, (x, affine), None, *ctx.settings)
    dx, daffine = norm_gradients(dy, x, affine, None, stats, *ctx.settings)
    return dx, None if affine is None else daffine, None, None, None


@operation(
    "norm_activation(Tensor x, Tensor? affine, str function, int groups, float eps)"
    " -> (Tensor, Tensor)",
    lambda x, affine, *_: (torch.empty_like(channels_last(x)), empty_statistics(x, affine)),
    _norm_setup,
    _norm_backward,
)
def _norm_activation(
    x: Tensor, affine: Operand, function: Function, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    x, (n, height, width, channels) = channels_last(x), nhwc(x)
    out, stats = torch.empty_like(x), norm_statistics(x, affine, None, groups, eps)
    call("activate", x, stats, CODES[function], out, n, height * width, channels)
    return out, stats


def fast_max_pool(x: Tensor) -> Tensor:
    """Return the maximum over 5 × 5 pixels around each."""
    return _max_pool(x) if x.ndim == 4 and kernels_accept(x) else max_pool(x)


@operation(
    "max_pool5x5_backward(Tensor dy, Tensor x, Tensor y) -> Tensor",
    lambda dy, x, y: torch.empty_like(channels_last(x)),
)
def _max_pool_gradient(dy: Tensor, x: Tensor, y: Tensor) -> Tensor:
    x = channels_last(x)
    dx = torch.zeros_like(x)
    call("max_pool_backward", x, channels_last(y), channels_last(dy), dx, *nhwc(x))
    return dx


def _max_pool_backward(ctx: Any, dy: Tensor) -> Operand:
    x, y = ctx.saved_tensors
    if torch.is_grad_enabled() or not kernels_accept(dy):
        return plain_gradients(max_pool, ctx, dy, (x,))[0]
    return _max_pool_gradient(dy, x, y)


@operation(
    "max_pool5x5(Tensor x) -> Tensor",
    lambda x: torch.empty_like(channels_last(x)),
    lambda ctx, inputs, output: ctx.save_for_backward(*inputs, output),
    _max_pool_backward,
)
def _max_pool(x: Tensor) -> Tensor:
    x = channels_last(x)
    out = torch.empty_like(x)
    call("max_pool", x, out, *nhwc(x))
    return out


# ── Calls ────────────────────────────────────────────────────────────────────────────────────────


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the C++ library, with the addresses of tensors and torch's threads."""
    values = [t.data_ptr() if hasattr(t, "data_ptr") else t for t in arguments]
    return getattr(library(), name)(*values, torch.get_num_threads())


def nhwc(x: Tensor) -> tuple[int, int, int, int]:
    """Return the sizes of an image batch in the kernels' order."""
    n, channels, height, width = x.shape
    return n, height, width, channels


def channels_last(x: Tensor) -> Tensor:
    """Return x with its channels innermost in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def contiguous(x: Operand) -> Operand:
    """Return x in torch's usual order in memory."""
    return None if x is None else x.contiguous()


def round_up_channels(channels: int) -> int:
    """Return a number of channels rounded up as by the kernel with the longest vectors."""
    return -(-channels // 16) * 16


def empty_statistics(x: Tensor, affine: Operand) -> Tensor:
    """Return room for a norm's statistics, none if there is no norm."""
    return x.new_empty(0 if affine is None else (len(x), 4, round_up_channels(x.shape[1])))


def norm_statistics(x: Tensor, affine: Operand, level: Operand, groups: int, eps: float) -> Tensor:
    """Return mean, scale, offset and 1/deviation of each image and channel (`vectors.h`)."""
    stats, (n, height, width, channels) = empty_statistics(x, affine), nhwc(x)
    if affine is not None and not call(
        "statistics", x, contiguous(affine), contiguous(level), stats,
        n, height * width, channels, groups, len(affine), eps,
    ):  # fmt: skip
        raise IndexError(f"a noise level is outside the table of {len(affine)}: {level}")
    return stats


def box_filter(x: Tensor, stats: Operand) -> Tensor:
    """Return the mean over 5 × 5 pixels of norm(x)."""
    out = torch.empty_like(x)
    call("box", x, stats, out, *nhwc(x))
    return out
