"""Linear layers on a CPU by oneDNN, the library of the convolutions.

    y = W·x + b        in float32, without derivatives

On some processors it is faster than what torch takes for products of matrices; the sums are the
same in another order. Where it is not to be had, or does not pay, the layer itself does it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .winograd import takes

LEAST = 2**20
"""Multiplications from which on it pays: fewer are done before it has begun."""


def available() -> bool:
    """Whether this torch has it."""
    return bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def plain(*tensors: Tensor) -> bool:
    """Whether these are numbers only: float32 on a CPU, of which nobody wants derivatives."""
    return not torch.is_grad_enabled() and takes(*tensors)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """What the layer makes of the rows of x, which are `plain`."""
    weight, rows = layer.weight, len(x)
    if rows * weight.numel() < LEAST or not takes(x, weight) or not available():
        out: Tensor = layer(x)
    else:
        out = torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")
    return out
