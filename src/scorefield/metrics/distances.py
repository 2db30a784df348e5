"""Distances between the distributions of two sets of samples, points of ℝᵈ.

    Fréchet    ‖m₁ − m₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½)    of two Gaussians with the samples' moments
    kernel     E k(x,x') + E k(y,y') − 2 E k(x,y)      the squared maximum mean discrepancy
    sliced     (E_θ W_p(θᵀx, θᵀy)ᵖ)^{1/p}              θ uniform on the sphere
    inception  exp E KL(p(y|x) ‖ p(y))                 of a classifier's p(y|x); not a distance

On the features of an Inception network the first two are known as FID and KID. Sums are in double
precision, because each distance is a small difference of large numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import blocks, mean_row, row_blocks, sample_matrices, sample_matrix

DIRECTIONS = 64
"""Directions on which all samples are projected at a time."""


class Estimate(NamedTuple):
    """A value and its error; the function documents which kind of error."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of samples that arrive in batches, or in several processes.

        moments = Moments()
        for batch in batches:
            moments = moments.update(batch)

    Parts are merged as by Chan, Golub & LeVeque (1983), without cancellation however far the mean
    is from zero: m = m₁ + δ·n₂/n and S = S₁ + S₂ + δδᵀ·n₁n₂/n, δ = m₂ − m₁. Memory is that of two
    d × d matrices for any n.
    """

    n: int = 0
    mean: Float[Tensor, "d"] = field(default_factory=lambda: torch.zeros(0))
    scatter: Float[Tensor, "d d"] = field(default_factory=lambda: torch.zeros(0, 0))
    """S = Σ (x − m)(x − m)ᵀ."""

    def update(self, batch: Float[Tensor, "n *shape"]) -> "Moments":
        """Return the moments of all samples so far and these; `self` stays as it is."""
        moments = self
        for x in blocks(sample_matrix("batch", batch, least=1)):
            mean = x.mean(0)
            gap = x - mean
            moments = moments.merge(Moments(len(x), mean, gap.T @ gap))
        return moments

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of samples."""
        if not (self.n and other.n):
            return self if self.n else other
        self.check_dimensions(other)
        n, delta = self.n + other.n, other.mean.to(self.mean.device) - self.mean
        between = torch.outer(delta, delta) * (self.n * other.n / n)
        scatter = self.scatter + other.scatter.to(self.mean.device) + between
        return Moments(n, self.mean + delta * (other.n / n), scatter)

    def check_dimensions(self, other: "Moments") -> None:
        """Raise if these are not moments of one space."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"moments of {len(self.mean)} and of {len(other.mean)} dimensions: use features of "
                "one network, or images of one size"
            )

    @property
    def cov(self) -> Float[Tensor, "d d"]:
        """C = S/(n − 1), unbiased."""
        if self.n < 2:
            raise ValueError(
                f"a covariance needs at least 2 samples, and {self.n} were counted: "
                "`update` returns the new moments, and changes nothing in place"
            )
        return self.scatter / (self.n - 1)


def frechet(
    x: Float[Tensor, "n *shape"] | Moments, y: Float[Tensor, "m *shape"] | Moments
) -> float:
    """Return the Fréchet distance of samples or of their `Moments`, squared as FID is.

        ‖m₁ − m₂‖² + tr C₁ + tr C₂ − 2 tr (C₁C₂)^½

    Heusel et al. 2017, eq. 6, with covariances over n − 1. It depends on two moments only, and too
    few samples make it larger: two sets of n from one N(0, I) are d(d + 5)/2n apart on average. So
    compare values at equal n, many times d.

    The last trace is the sum of the singular values of C₁^½ C₂^½ (Dowson & Landau 1982). Roots of
    the eigenvalues of a product, the usual choice, turn the rounding error 10⁻¹⁶ of a zero
    eigenvalue into 10⁻⁸. So singular covariances, those of n ≤ d samples, are not a special case.
    """
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        x, y = sample_matrices(least=2, x=x, y=y)
    a, b = (z if isinstance(z, Moments) else Moments().update(z) for z in (x, y))
    a.check_dimensions(b)
    gap, root, other = a.mean - b.mean, _root(a.cov), _root(b.cov)
    shared = torch.linalg.svdvals(root @ other.T).sum()
    total = gap.square().sum() + root.square().sum() + other.square().sum() - 2 * shared
    return float(total.clamp(min=0))


def _root(cov: Tensor) -> Tensor:
    """Return R with RᵀR = C: C^½ in the basis of its eigenvectors, without those of 0."""
    values, vectors = torch.linalg.eigh(cov)
    positive = values > torch.finfo(values.dtype).eps * len(cov) * values[-1]
    root: Tensor = vectors[:, positive].T * values[positive].sqrt()[:, None]
    return root


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

    The Hoeffding terms of the unbiased estimator are uncorrelated, so its variance is exactly

        4 Var a(x)/n + 4 Var b(y)/m + 2 s_x/n(n−1) + 2 s_y/m(m−1) + 4 s/nm

    with a(x) = E k(x,x') − E k(x,y), b(y) likewise, and s_x, s_y, s the variances of k(x,x'),
    k(y,y') and k(x,y) without their means over either argument. If both distributions are the
    same, a and b are constant and the last three terms decide.
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


def _sums(
    x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
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


def sliced_wasserstein(
    x: Float[Tensor, "n *shape"],
    y: Float[Tensor, "m *shape"],
    *,
    directions: int = 512,
    order: float = 2,
    noise: Callable[[Tensor], Tensor] = torch.randn_like,
) -> float:
    """Return SW_p = (mean of W_p(θᵀx, θᵀy)ᵖ over directions θ)^{1/p}, by default for p = 2.

    Rabin et al. 2011; Bonneel et al. 2015, §3. On a line W_pᵖ = ∫₀¹ |F⁻¹(u) − G⁻¹(u)|ᵖ du,
    computed exactly for sample sizes n ≠ m as well. A shift by δ has SW₂ = ‖δ‖/√d on average over
    directions. Too few samples make it larger, by about the distance of two sets from one
    distribution: compare with that of real samples to real ones. Too few directions add a noise
    that falls as 1/√directions, and is common to all values whose `noise`, which is called once for
    all directions, has the same seed. `order` is p.
    """
    if directions < 1 or order < 1:
        raise ValueError(f"directions={directions}, order={order}: give at least 1 for both")
    x, y = sample_matrices(least=1, x=x, y=y)
    theta = noise(x.new_empty(directions, x.shape[1])).double()
    theta = theta / theta.norm(dim=1, keepdim=True)
    width, i, j = _coupling(len(x), len(y), x.device)
    total = theta.new_zeros(())
    for part in theta.split(DIRECTIONS):
        u, v = (torch.cat([block @ part.T for block in blocks(z)]).sort(0).values for z in (x, y))
        total += (width @ (u[i] - v[j]).abs().pow(order)).sum()
    return float((total / directions) ** (1 / order))


def _coupling(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the intervals where both quantile functions are constant: widths and indices."""
    # the steps i/n and j/m of the empirical quantiles, as whole multiples of 1/nm
    steps = [torch.arange(0, n * m, size, device=device) for size in (n, m)]
    start = torch.unique(torch.cat(steps))
    width = start.diff(append=start.new_tensor([n * m])).double() / (n * m)
    return width, start // m, start // n


def inception_score(probabilities: Float[Tensor, "n classes"], splits: int = 10) -> Estimate:
    """Return exp E KL(p(y|x) ‖ p(y)), the mean over splits, and as published their deviation.

    Salimans et al. 2016, §4. From 1, if every sample is classified alike, to the number of classes,
    if each sample has one class for sure and classes are equally frequent. p(y) is the mean over
    the split, so too few samples make it smaller: one sample alone scores 1. The deviation is that
    among splits, of consecutive samples; their mean is more precise.
    """
    p = sample_matrix("probabilities", probabilities, least=1)
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits={splits} of {len(p)} samples: give 1 to that many")
    if p.min() < 0 or (p.sum(1, dtype=torch.float64) - 1).abs().max() > 1e-3:
        raise ValueError("rows of probabilities must sum to 1: give softmax(logits), not logits")
    divergences = []
    for part in p.tensor_split(splits):  # H(p(y)) − E H(p(y|x))
        mean = mean_row(part)
        entropies = torch.stack([block.xlogy(block).sum() for block in blocks(part)])
        divergences.append(entropies.sum() / len(part) - mean.xlogy(mean).sum())
    scores = torch.stack(divergences).exp()
    return Estimate(scores.mean().item(), scores.std(correction=0).item())
