"""Muon, an optimiser for matrices (Jordan et al. 2024), with Adam for all other weights.

    M ← μM + (1 − μ)G,    θ ← (1 − ηw)θ − 0.2η√max(m, n)·orthogonal(μM + (1 − μ)G)

orthogonal(UΣVᵀ) ≈ UVᵀ makes all directions of a gradient G of m × n count the same: five steps of
X ← aX + (bXXᵀ + c(XXᵀ)²)X move the singular values of X = G/‖G‖ to about 1. The factor gives each
number of a step the size that it has in Adam, so that one learning rate serves both (Liu et al.
2025). A convolution's weight is the matrix of its output channels and all the rest.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._ops import has_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b and c, which bring all singular values above about 0.001 to between 0.68 and 1.14."""
NEWTON_STEPS = 5
MOMENTUM = 0.95
"""μ"""
MIN_CHANNELS = 16
"""Fewest rows and columns of a matrix: the ends of a network, of few channels, are left to Adam."""


class Muon(torch.optim.AdamW):
    """Muon for matrices, tables and convolutions of 16 rows and columns or more, else Adam.

    The arguments are those of `torch.optim.AdamW`, but there is no decay by default.
    """

    def __init__(self, params: Any, lr: float = 1e-3, *, weight_decay: float = 0.0, **options: Any):
        super().__init__(params, lr, weight_decay=weight_decay, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; with `found_inf`, which a gradient scaler sets, none where that is 1."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = dict[Tensor, Tensor]()
        for group in self.param_groups:
            own = {p: p.grad for p in group["params"] if p.grad is not None and is_matrix(p)}
            self._move(group, own)
            gradients |= own
        for p in gradients:
            p.grad = None
        super().step()  # passes over weights without a gradient
        for p, gradient in gradients.items():
            p.grad = gradient
        return loss

    def _move(self, group: dict[str, Any], gradients: dict[Tensor, Tensor]) -> None:
        """Move the matrices of a group."""
        skipped: Any = getattr(self, "found_inf", None)
        alike = defaultdict[tuple[int, ...], list[Tensor]](list)
        for p in gradients:
            alike[p.flatten(1).shape].append(p)
            if not self.state[p]:
                # to load a state, Adam needs a step in it
                step = torch.zeros((), device=p.device)
                self.state[p] |= {"step": step, "momentum": torch.zeros_like(p)}
        for (rows, columns), parameters in alike.items():
            momenta = [self.state[p]["momentum"] for p in parameters]
            now: Any = [gradients[p] for p in parameters]
            if skipped is not None:  # without a look at it, which would wait for the device
                now = [torch.where(skipped > 0, m, g) for m, g in zip(momenta, now, strict=True)]
            torch._foreach_lerp_(momenta, now, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(now, momenta, MOMENTUM)
            steps = orthogonal(torch.stack([x.flatten(1) for x in ahead]))
            decay, factor = group["lr"] * group["weight_decay"], 0.2 * max(rows, columns) ** 0.5
            if skipped is not None:
                steps, decay = steps * (1 - skipped), decay * (1 - skipped)
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - decay)
            moves = [m.view(p.shape) for m, p in zip(steps.unbind(), parameters, strict=True)]
            torch._foreach_add_(parameters, moves, alpha=-factor * group["lr"])


def is_matrix(weight: Tensor) -> bool:
    """Return True for matrices, and convolutions read as matrices, that Muon is for."""
    return weight.ndim > 1 and min(weight.flatten(1).shape) >= MIN_CHANNELS


def orthogonal(matrices: Tensor) -> Tensor:
    """Return about UVᵀ of each matrix UΣVᵀ."""
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + torch.finfo(wide.dtype).tiny)
    if x.dtype == torch.float32 and has_bfloat16(x.device.type):
        x = x.bfloat16()
    a, b, c = COEFFICIENTS
    for _ in range(NEWTON_STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    out: Tensor = (x.mT if wide is not matrices else x).to(matrices.dtype)
    return out
