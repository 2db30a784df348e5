"""The kernel distance, MMD² = E k(x,x') + E k(y,y') − 2 E k(x,y), and its variance.

On the features of an Inception network it is known as KID. The Hoeffding terms of the unbiased
estimator are uncorrelated, so its variance is exactly

    4 Var a(x)/n + 4 Var b(y)/m + 2 s_x/n(n−1) + 2 s_y/m(m−1) + 4 s/nm

with a(x) = E k(x,x') − E k(x,y), b(y) likewise, and s_x, s_y, s the variances of k(x,x'), k(y,y')
and k(x,y) without their means over either argument. If both distributions are the same, a and b
are constant and the last three terms decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import blocks, row_blocks, sample_matrices
from .distances import Estimate

Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""k of all pairs of two blocks of rows."""


def kernel_distance(
    x: Float[Tensor, "n *shape"],
    y: Float[Tensor, "m *shape"],
    *,
    degree: int = 3,
    scale: float | None = None,
    offset: float = 1.0,
) -> Estimate:
    """The squared maximum mean discrepancy for k(a, b) = (γaᵀb + c)ʳ, and its standard error.

    Σ_{i≠j} k(xᵢ,xⱼ)/n(n−1) + Σ_{i≠j} k(yᵢ,yⱼ)/m(m−1) − 2 Σᵢⱼ k(xᵢ,yⱼ)/nm: Gretton et al. 2012,
    Lemma 6; with this kernel Bińkowski et al. 2018, §4. It is unbiased at any n, and so negative
    half of the time if both distributions are the same. Few samples cost only precision, which the
    error shows (up to a quarter too large if the distributions are the same). KID as published is
    the mean over random subsets, with the same expectation. `degree` is r, `scale` γ (1/d by
    default) and `offset` c. The cost is that of all pairs.
    """
    x, y = sample_matrices(least=4, x=x, y=y)
    gamma = 1 / x.shape[1] if scale is None else scale

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (gamma * (a @ b.T) + offset) ** degree

    n, m = len(x), len(y)
    (x_to_x, _, square_x), (y_to_y, _, square_y) = _sums(x, x, kernel), _sums(y, y, kernel)
    x_to_y, y_to_x, square = _sums(x, y, kernel)
    s_x, s_y = _interaction(x_to_x, square_x), _interaction(y_to_y, square_y)
    left = square - x_to_y.square().sum() / m - y_to_x.square().sum() / n
    s = (left + x_to_y.sum() ** 2 / (n * m)) / ((n - 1) * (m - 1))
    # the variance of a and b, less that of the noise with which they are estimated
    slope_x = (x_to_x / (n - 2) - x_to_y / m).var() - s_x / (n - 2) - s / m
    slope_y = (y_to_y / (m - 2) - y_to_x / n).var() - s_y / (m - 2) - s / n
    first = (4 * slope_x / n + 4 * slope_y / m).clamp(min=0)
    second = 2 * s_x / (n * (n - 1)) + 2 * s_y / (m * (m - 1)) + 4 * s / (n * m)
    value = x_to_x.mean() / (n - 1) + y_to_y.mean() / (m - 1) - 2 * x_to_y.mean() / m
    return Estimate(value.item(), (first + second).clamp(min=0).sqrt().item())


def _sums(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor]:
    """Return Σⱼ k(xᵢ,yⱼ), Σᵢ k(xᵢ,yⱼ) and Σ k²; if y is x, over pairs i ≠ j."""
    rows, columns = (z.new_zeros(len(z), dtype=torch.float64) for z in (x, y))
    square = rows.new_zeros(())
    for i, (a, row) in enumerate(zip(blocks(x), row_blocks(rows, x), strict=True)):
        for j, (b, column) in enumerate(zip(blocks(y), row_blocks(columns, y), strict=True)):
            k = kernel(a, b)
            if x is y and i == j:
                k.fill_diagonal_(0)
            row.add_(k.sum(1))  # a view, as the next
            column.add_(k.sum(0))
            square += k.square().sum()
    return rows, columns, square


def _interaction(sums: Tensor, square: Tensor) -> Tensor:
    """Return an unbiased estimate of s_x: the U-centred squares of Székely & Rizzo 2014."""
    n = len(sums)
    grand = sums.sum() ** 2 / ((n - 1) * (n - 2))
    return (square - 2 * sums.square().sum() / (n - 2) + grand) / (n * (n - 3))
