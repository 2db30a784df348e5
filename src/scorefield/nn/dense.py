"""Linear layers on a CPU by oneDNN, the library of the convolutions.

    y = W·x + b        in float32, with first derivatives

On some processors it is faster than what torch takes for products of matrices; the sums are the
same in another order. Where it is not to be had, or does not pay, the layer itself does it.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .around import bare, takes

LEAST, LEAST_TRAINED = 2**20, 5 * 2**20
"""Multiplications from which on it pays: fewer are done before it has begun, and its gradients."""
SIDE = 256
"""Rows and columns of a gradient of weights from which on it pays: both factors are turned."""


def available() -> bool:
    """Whether this torch has it."""
    return bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def trains_faster(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether it is known to be faster in training.

    On AMD's processors, of which MKL, torch's own, leaves half unused; elsewhere nothing has been
    measured.
    """
    return "AMD" in (info.read_text() if info.exists() else platform.processor())


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """What the layer makes of the rows of x."""
    weight, bias, trained = layer.weight, layer.bias, torch.is_grad_enabled()
    pays = len(x) * weight.numel() >= (LEAST_TRAINED if trained else LEAST)
    simple = type(layer) is nn.Linear and bare(layer)
    if not (pays and simple and takes(x, weight, bias) and available()):
        out: Tensor = layer(x)
    elif trained:
        out = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    else:
        out = _product(x, weight, bias)
    return out


class _Linear(torch.autograd.Function):
    """The first derivative by oneDNN; whatever else is asked for, by torch's own products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        fast = takes(dy) and not torch.is_grad_enabled()
        dx = dweight = None
        if needed[0]:
            dx = _product(dy, weight.T) if fast else dy @ weight
        if needed[1]:
            wide = fast and min(weight.shape) >= SIDE
            dweight = _product(dy.T, x.T) if wide else dy.T @ x
        return dx, dweight, dy.sum(0) if needed[2] else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out
