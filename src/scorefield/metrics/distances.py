"""Distances between the laws of two sets of samples, each seen as points of ℝᵈ.

    Fréchet    ‖m₁ − m₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½)    of two Gaussians with the samples' moments
    sliced     (E_θ W_p(θᵀx, θᵀy)ᵖ)^{1/p}              θ uniform on the sphere
    inception  exp E KL(p(y|x) ‖ p(y))                 of a classifier's probabilities, no distance

and in `kernel` the maximum mean discrepancy. On the features of an Inception network the first is
known as FID. Sums are in double precision: each is a small difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import blocks, matrices, matrix


class Estimate(NamedTuple):
    """A number and its error, of which kind the function says."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of samples that come in batches, or were counted in several processes.

        moments = Moments()
        for batch in batches:
            moments = moments.update(batch)

    Parts are put together as by Chan, Golub & LeVeque (1983), without cancellation however
    far the mean is from zero: m = m₁ + δ·n₂/n and S = S₁ + S₂ + δδᵀ·n₁n₂/n, δ = m₂ − m₁. Memory is
    that of two d × d matrices, whatever n.
    """

    n: int = 0
    mean: Float[Tensor, "d"] = field(default_factory=lambda: torch.zeros(0))
    scatter: Float[Tensor, "d d"] = field(default_factory=lambda: torch.zeros(0, 0))
    """S = Σ (x − m)(x − m)ᵀ."""

    def update(self, batch: Float[Tensor, "n *shape"], *, chunk: int | None = None) -> Moments:
        """Those of all samples so far and these; `self` stays as it is."""
        found = self
        for x in blocks(matrix("batch", batch, least=1), chunk):
            mean = x.mean(0)
            gap = x - mean
            found = found.merge(Moments(len(x), mean, gap.T @ gap))
        return found

    def merge(self, other: Moments) -> Moments:
        """Those of both sets of samples."""
        if not (self.n and other.n):
            return self if self.n else other
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"moments of {len(self.mean)} and of {len(other.mean)} dimensions: count features "
                "of one network, or images of one size"
            )
        n, delta = self.n + other.n, other.mean.to(self.mean.device) - self.mean
        between = torch.outer(delta, delta) * (self.n * other.n / n)
        scatter = self.scatter + other.scatter.to(self.mean.device) + between
        return Moments(n, self.mean + delta * (other.n / n), scatter)

    @property
    def cov(self) -> Float[Tensor, "d d"]:
        """C = S/(n − 1), unbiased."""
        if self.n < 2:
            raise ValueError(
                f"a covariance takes 2 samples at least, and {self.n} were counted: "
                "`update` returns the new moments, and changes nothing in place"
            )
        return self.scatter / (self.n - 1)


def frechet(
    x: Float[Tensor, "n *shape"], y: Float[Tensor, "m *shape"], *, chunk: int | None = None
) -> float:
    """The Fréchet distance of the samples' moments, squared as FID is: `frechet_gaussian`.

    Heusel et al. 2017, eq. 6, with covariances over n − 1. It sees no more than two moments, and
    too few samples make it larger: two sets of n from one N(0, I) are d(d + 5)/2n apart on average,
    so values compare at equal n only, and n must be many times d. Of data that have been counted
    before, or do not fit into memory, keep `Moments`.

    Args:
        x: samples, 2 at least.
        y: others.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    x, y = matrices(least=2, x=x, y=y)
    a, b = Moments().update(x, chunk=chunk), Moments().update(y, chunk=chunk)
    return frechet_gaussian(a.mean, a.cov, b.mean, b.cov)


def frechet_gaussian(
    mean_x: Float[Tensor, "d"],
    cov_x: Float[Tensor, "d d"],
    mean_y: Float[Tensor, "d"],
    cov_y: Float[Tensor, "d d"],
) -> float:
    """W₂² of N(m₁, C₁) and N(m₂, C₂), which is ‖m₁ − m₂‖² + tr(C₁ + C₂ − 2(C₁^½ C₂ C₁^½)^½).

    Dowson & Landau 1982. The last trace is the sum of the singular values of C₁^½ C₂^½: to
    take roots of the eigenvalues of a product, as is common, turns the rounding error 10⁻¹⁶ of
    each that should be zero into 10⁻⁸. So singular covariances, those of n ≤ d samples, are no
    special case. The moments themselves of few samples are too far apart (`frechet`).

    Args:
        mean_x: m₁.
        cov_x: C₁, symmetric and positive semi-definite.
        mean_y: m₂.
        cov_y: C₂.
    """
    given = {"mean_x": mean_x, "cov_x": cov_x, "mean_y": mean_y, "cov_y": cov_y}
    for name, value in given.items():
        shape = (len(mean_x),) * (1 if name.startswith("mean") else 2)
        if value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}: beside mean_x give {shape}")
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values")
    gap = mean_x.detach().double() - mean_y.detach().double()
    roots = [_root("cov_x", cov_x), _root("cov_y", cov_y)]
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    own = torch.stack([root.square().sum() for root in roots]).sum()
    total = gap.square().sum() + own - 2 * shared
    return float(total.clamp(min=0))


def _root(name: str, cov: Tensor) -> Tensor:
    """R of RᵀR = C, which is C^½ in the basis of its eigenvectors, those of 0 left out."""
    cov = cov.detach().double()
    if (cov - cov.T).abs().max() > 1e-4 * cov.abs().max():
        raise ValueError(f"{name} is not symmetric, as covariances are: was it damaged?")
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    if values[0] < -1e-4 * values[-1].abs():
        raise ValueError(
            f"{name} has the negative eigenvalue {values[0].item():.3g}, which no covariance has: "
            "was it damaged, or summed in too low a precision?"
        )
    kept = values > torch.finfo(values.dtype).eps * len(cov) * values[-1]
    root: Tensor = vectors[:, kept].T * values[kept].sqrt()[:, None]
    return root


def sliced_wasserstein(
    x: Float[Tensor, "n *shape"],
    y: Float[Tensor, "m *shape"],
    *,
    directions: int = 512,
    order: float = 2,
    noise: Callable[[Tensor], Tensor] = torch.randn_like,
    chunk: int | None = None,
) -> float:
    """SW_p = (mean of W_p(θᵀx, θᵀy)ᵖ over directions θ)^{1/p}, W₂ unless another order is given.

    Rabin et al. 2011; Bonneel et al. 2015, §3. On a line W_pᵖ = ∫₀¹ |F⁻¹(u) − G⁻¹(u)|ᵖ du,
    computed exactly for sample sizes n ≠ m as well. A shift by δ has SW₂ = ‖δ‖/√d on average over
    directions. Too few samples make it larger, by about the distance of two sets from one law:
    compare with that of real samples to real ones. Too few directions add a noise that falls as
    1/√directions, and is shared by all that are compared if `noise` starts from the same seed.

    Args:
        x: samples.
        y: others.
        directions: how many θ.
        order: p, at least 1.
        noise: source of noise, called once for all directions.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    if directions < 1 or order < 1:
        raise ValueError(f"directions={directions}, order={order}: both are 1 at least")
    x, y = matrices(least=1, x=x, y=y)
    theta = noise(x.new_empty(directions, x.shape[1])).double()
    theta = theta / theta.norm(dim=1, keepdim=True)
    width, i, j = _coupling(len(x), len(y), x.device)
    total = 0.0
    for part in theta.split(64):  # each with 64 sorted projections of all samples
        u, v = (
            torch.cat([block @ part.T for block in blocks(z, chunk)]).sort(0).values for z in (x, y)
        )
        total += (width @ (u[i] - v[j]).abs().pow(order)).sum().item()
    return float((total / directions) ** (1 / order))


def _coupling(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where the quantiles of n and of m samples are both constant: the widths, and which two."""
    # the steps i/n and j/m of the empirical quantiles, as whole multiples of 1/nm
    steps = [torch.arange(0, n * m, size, device=device) for size in (n, m)]
    start = torch.cat(steps).sort().values
    start = start[start.diff(prepend=start.new_tensor([-1])) > 0]
    end = torch.cat([start[1:], start.new_tensor([n * m])])
    return (end - start).double() / (n * m), start // m, start // n


def inception_score(
    probabilities: Float[Tensor, "n classes"], splits: int = 10, *, chunk: int | None = None
) -> Estimate:
    """exp E KL(p(y|x) ‖ p(y)), in mean over splits; with it, as published, their deviation.

    Salimans et al. 2016, §4. From 1, where every sample is classified alike, to the number of
    classes, where each has one class for sure and classes are equally frequent. p(y) is the mean
    over the split, so too few samples make it smaller: one sample alone scores 1. The deviation is
    that among splits, whose mean is more precise.

    Args:
        probabilities: p(y|xᵢ) of a classifier, a row each.
        splits: into how many parts, in the order given, the samples are divided.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    p = matrix("probabilities", probabilities, least=1)
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits={splits} of {len(p)} samples: give from 1 to as many as those")
    if p.min() < 0 or (p.sum(1, dtype=torch.float64) - 1).abs().max() > 1e-3:
        raise ValueError("probabilities has rows that are none: give softmax(logits), not logits")
    scores = torch.stack([_divergence(part, chunk).exp() for part in p.tensor_split(splits)])
    return Estimate(scores.mean().item(), scores.std(correction=0).item())


def _divergence(p: Tensor, chunk: int | None) -> Tensor:
    """E KL(p(y|x) ‖ p(y)) = H(p(y)) − E H(p(y|x))."""
    total = p.new_zeros(p.shape[1], dtype=torch.float64)
    negative = total.new_zeros(())
    for block in blocks(p, chunk):
        total, negative = total + block.sum(0), negative + block.xlogy(block).sum()
    mean = total / len(p)
    return negative / len(p) - mean.xlogy(mean).sum()
