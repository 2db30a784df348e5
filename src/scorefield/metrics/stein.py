"""Samples against a score: a discrepancy that needs no samples of the target.

The discrepancy is 0 if the samples have the score s = ∇ₓ log p (Gorham & Mackey 2017; this kernel
also notices samples that drift away). Like every function of the score alone, it hardly notices
wrong weights of modes that are far from each other.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import blocks, mean_row, sample_matrices
from .distances import Estimate


def stein_discrepancy(
    x: Float[Tensor, "n *shape"], score: Float[Tensor, "n *shape"], *, scale: float | None = None
) -> Estimate:
    """The squared kernel Stein discrepancy E u(x, x') of samples x, and its standard error.

        u = s·s' k + s·∇ₓ'k + s'·∇ₓk + tr ∇ₓ∇ₓ'k,   k = (1 + ‖x − x'‖²/c²)^{−1/2}

    `score` is ∇ₓ log p at each x, of a posterior s(x, σ) + Aᵀ(y − Ax)/σ_y² at a small σ. `scale` is
    c, by default the root mean square of ‖x − x'‖. The mean over i ≠ j is unbiased. The error is
    √2 times the exact one if the samples have the score. The cost is that of all pairs.
    """
    x, score = sample_matrices(least=3, x=x, score=score)
    if len(x) != len(score):
        raise ValueError(
            f"x has {len(x)} samples and score {len(score)}: give the score of each sample"
        )
    (n, d), mean = x.shape, mean_row(x)
    if scale is None:
        squares = torch.stack([(a - mean).square().sum() for a in blocks(x)])
        scale = (2 * squares.sum().item() / n) ** 0.5
    if not scale > 0:
        raise ValueError(f"scale={scale}: give the kernel's length, above 0")

    def kernel(x: Tensor, s: Tensor, y: Tensor, t: Tensor) -> Tensor:
        square = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
        turn = (x * s).sum(1)[:, None] + (y * t).sum(1) - x @ t.T - s @ y.T  # (x − y)·(s − t)
        q = 1 + square / scale**2
        slope = (turn + d) / scale**2 - 3 * square / (scale**4 * q)
        return (s @ t.T + slope / q) / q.sqrt()

    pairs = [(a - mean, s) for a, s in zip(blocks(x), blocks(score), strict=True)]
    rows = torch.cat([torch.stack([kernel(*a, *b).sum(1) for b in pairs]).sum(0) for a in pairs])
    own = torch.cat([s.square().sum(1) for _, s in pairs]) + d / scale**2
    rows = (rows - own) / (n - 1)
    return Estimate(rows.mean().item(), 2 * rows.std().item() / n**0.5)
