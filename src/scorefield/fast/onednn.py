"""Linear layers on a CPU by oneDNN, the library behind torch's convolutions.

    y = W·x + b        in float32, with first derivatives

Some processors multiply matrices faster with it than with torch's default library.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .norms import kernels_accept

MIN_MULTIPLICATIONS = 2**20
"""Fewest multiplications for which oneDNN pays: it takes time to start."""
MIN_MULTIPLICATIONS_TRAINING = 5 * 2**20
"""The same where gradients are needed."""
MIN_GRADIENT_SIDE = 256
"""Fewest rows and columns for a weight's gradient, which transposes both factors."""


def onednn_available() -> bool:
    """Return True if this build of torch has oneDNN."""
    return bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def trains_faster(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True for AMD processors, on which oneDNN was measured to be faster in training."""
    return "AMD" in (info.read_text() if info.exists() else platform.processor())


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return W·x + b for rows x."""
    trained = torch.is_grad_enabled()
    minimum = MIN_MULTIPLICATIONS_TRAINING if trained else MIN_MULTIPLICATIONS
    large = x.ndim == 2 and len(x) * weight.numel() >= minimum
    compiling = torch.compiler.is_compiling()
    if not (large and onednn_available() and kernels_accept(x, weight, bias)) or compiling:
        return F.linear(x, weight, bias)
    if not trained:
        return _product(x, weight, bias)
    out: Tensor = _OneDNNLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _OneDNNLinear(torch.autograd.Function):
    """First derivatives by oneDNN, all others by torch's default products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        fast = kernels_accept(dy) and not torch.is_grad_enabled()
        dx = dweight = None
        if needs_x:
            dx = _product(dy, weight.T) if fast else dy @ weight
        if needs_weight:
            wide = fast and min(weight.shape) >= MIN_GRADIENT_SIDE
            dweight = _product(dy.T, x.T) if wide else dy.T @ x
        return dx, dweight, dy.sum(0) if needs_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x·Wᵀ + b."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out
