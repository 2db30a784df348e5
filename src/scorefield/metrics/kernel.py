"""The kernel distance, MMD² = E k(x,x') + E k(y,y') − 2 E k(x,y), and its variance.

On the features of an Inception network it is known as KID. Hoeffding's parts of the unbiased
estimator are uncorrelated, so that its variance is exactly

    4 Var a(x)/n + 4 Var b(y)/m + 2 s_x/n(n−1) + 2 s_y/m(m−1) + 4 s/nm

with a(x) = E k(x,x') − E k(x,y), b(y) likewise, and s_x, s_y, s the variances of what is left of
k(x,x'), k(y,y') and k(x,y) without their means over either argument. Where both laws are the same a
and b are constant, and the other terms decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import blocks, matrices, rows
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
    chunk: int | None = None,
) -> Estimate:
    """The squared maximum mean discrepancy for k(a, b) = (γaᵀb + c)ʳ, and its standard error.

    Σ_{i≠j} k(xᵢ,xⱼ)/n(n−1) + Σ_{i≠j} k(yᵢ,yⱼ)/m(m−1) − 2 Σᵢⱼ k(xᵢ,yⱼ)/nm: Gretton et al. 2012,
    Lemma 6; with this kernel Bińkowski et al. 2018, §4. It is unbiased at any n, and so below zero
    in half of all cases if both laws are the same: too few samples cost precision alone, and the
    error says how much (if the laws are the same, up to a quarter too much). KID as published is
    the mean over random subsets, and has the same expectation. The cost is that of all pairs: where
    n²d is too much, take a part of the samples.

    Args:
        x: samples, 4 at least.
        y: others.
        degree: r.
        scale: γ; 1/d if not given.
        offset: c.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    x, y = matrices(least=4, x=x, y=y)
    gamma = 1 / x.shape[1] if scale is None else scale

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (gamma * (a @ b.T) + offset) ** degree

    n, m = len(x), len(y)
    (of_x, square_x), (of_y, square_y) = _within(x, kernel, chunk), _within(y, kernel, chunk)
    x_to_y, y_to_x, square = _across(x, y, kernel, chunk)
    s_x, s_y = _interaction(of_x, square_x), _interaction(of_y, square_y)
    left = square - x_to_y.square().sum() / m - y_to_x.square().sum() / n
    s = (left + x_to_y.sum() ** 2 / (n * m)) / ((n - 1) * (m - 1))
    # a and b are seen through the noise of what is left, whose variance is known
    slope_x = (of_x / (n - 2) - x_to_y / m).var() - s_x / (n - 2) - s / m
    slope_y = (of_y / (m - 2) - y_to_x / n).var() - s_y / (m - 2) - s / n
    first = (4 * slope_x / n + 4 * slope_y / m).clamp(min=0)
    second = 2 * s_x / (n * (n - 1)) + 2 * s_y / (m * (m - 1)) + 4 * s / (n * m)
    value = of_x.mean() / (n - 1) + of_y.mean() / (m - 1) - 2 * x_to_y.mean() / m
    return Estimate(value.item(), (first + second).clamp(min=0).sqrt().item())


def _within(x: Tensor, kernel: Kernel, chunk: int | None) -> tuple[Tensor, Tensor]:
    """Σⱼ k(xᵢ,xⱼ) over j ≠ i, and Σ k² over all such pairs."""
    parts = torch.split(x, rows(x, chunk))
    sums = [part.new_zeros(len(part), dtype=torch.float64) for part in parts]
    square = x.new_zeros((), dtype=torch.float64)
    for i, a in enumerate(blocks(x, chunk)):
        for j in range(i, len(parts)):
            k = kernel(a, parts[j].double())
            if i == j:
                k.fill_diagonal_(0)
            else:
                sums[j] += k.sum(0)
            sums[i] += k.sum(1)
            square += k.square().sum() * (1 if i == j else 2)
    return torch.cat(sums), square


def _across(
    x: Tensor, y: Tensor, kernel: Kernel, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Σⱼ k(xᵢ,yⱼ), Σᵢ k(xᵢ,yⱼ) and Σ k²."""
    sums, square = [], x.new_zeros((), dtype=torch.float64)
    down = y.new_zeros(len(y), dtype=torch.float64)
    for a in blocks(x, chunk):
        along = a.new_zeros(len(a))
        for b, part in zip(blocks(y, chunk), torch.split(down, rows(y, chunk)), strict=True):
            k = kernel(a, b)
            along += k.sum(1)
            part += k.sum(0)  # a view
            square += k.square().sum()
        sums.append(along)
    return torch.cat(sums), down, square


def _interaction(sums: Tensor, square: Tensor) -> Tensor:
    """An unbiased estimate of s_x: the U-centred squares of Székely & Rizzo 2014."""
    n = len(sums)
    grand = sums.sum() ** 2 / ((n - 1) * (n - 2))
    return (square - 2 * sums.square().sum() / (n - 2) + grand) / (n * (n - 3))
