"""The Gaussian where a chain starts and a likelihood ends.

    q_σ ≈ N(mean, Σ + σ²I)   for σ so large that q_σ depends on two moments of the data alone

N(0, σ₁²I) in its place would give modes wrong weights: the mean of the data is not 0, and its
spread is not negligible compared with σ₁.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import Noise, Sigma, match


@dataclass(frozen=True, eq=False)
class Prior:
    """N(mean, Σ + σ²I), Σ = cov + factor·factorᵀ: the limit of q_σ at a large σ.

    `cov` is a scalar, the diagonal (in the shape of `mean`) or dense, over flattened samples.
    `factor` (dimension × rank, with a scalar cov) makes a covariance of low rank.
    """

    mean: Float[Tensor, "*shape"]
    cov: Float[Tensor, "..."]
    factor: Float[Tensor, "size rank"] | None = None

    def __post_init__(self) -> None:
        size, cov = self.mean.numel(), self.cov
        if cov.shape not in (torch.Size(), self.mean.shape, (size, size)):
            raise ValueError(
                f"cov has shape {tuple(cov.shape)} for a mean of shape "
                f"{tuple(self.mean.shape)}: give a scalar, a diagonal in the mean's shape, or a "
                f"{size} × {size} matrix"
            )
        if not self.mean.is_floating_point() or not cov.is_floating_point():
            raise TypeError(f"mean is {self.mean.dtype} and cov {cov.dtype}: give floats")
        if self.factor is not None and (
            cov.ndim > 0 or self.factor.ndim != 2 or len(self.factor) != size
        ):
            raise ValueError(f"factor must have {size} rows, and cov must be a scalar with it")

    @classmethod
    def fit(
        cls,
        data: Float[Tensor, "n *shape"],
        weights: Float[Tensor, "n"] | None = None,
        blur: float = 0.0,
    ) -> Prior:
        """Return the Gaussian with the moments of weighted samples and `blur` added variance.

        The covariance is dense up to 1,024 dimensions and diagonal above.
        """
        share = data.new_ones(len(data)) if weights is None else weights
        mean = torch.tensordot(share / share.sum(), data, 1)
        gap = (data - mean).flatten(1) * (share / share.sum()).sqrt()[:, None]
        if mean.numel() > 1024:
            return cls(mean, gap.square().sum(0).view_as(mean) + blur)
        return cls(mean, gap.T @ gap + blur * torch.eye(mean.numel()).to(mean))

    @cached_property
    def spectrum(self) -> tuple[Tensor | None, Tensor, float]:
        """Orthonormal columns (None: the axes), variances along them, variance across them."""
        if self.factor is not None:
            basis, scales, _ = torch.linalg.svd(self.factor.double(), full_matrices=False)
            values, rest = _zero_rounding(scales**2) + self.cov, self.cov.item()
        elif self.cov.shape == (self.mean.numel(),) * 2 and self.cov.shape != self.mean.shape:
            cov, precision = self.cov.double(), torch.finfo(self.cov.dtype).eps
            values, basis = torch.linalg.eigh(cov)
            slack = 10 * len(values) * precision * values.abs().max()
            if (cov - cov.T).abs().max() > slack or values.min() < -slack:
                raise ValueError(
                    "cov is not a covariance: it must be symmetric, with no negative eigenvalue"
                )
            values, rest = _zero_rounding(values), 0.0
        else:
            basis, values, rest = None, self.cov.flatten(), 0.0
        if values.min() < 0 or rest < 0:
            raise ValueError("cov is not a covariance: it has a negative variance")
        return basis if basis is None else basis.to(self.mean), values.to(self.mean), rest

    def _apply(self, v: Tensor, sigma: Tensor, power: float) -> Tensor:
        """Return (Σ + σ²I)^power · v for flat v."""
        basis, values, rest = self.spectrum
        if basis is None:
            return (values + sigma**2) ** power * v
        basis = basis.to(v.dtype)
        coords = v @ basis
        inside = ((values + sigma**2) ** power * coords) @ basis.T
        if basis.shape[0] == basis.shape[1]:
            return inside
        return inside + (rest + sigma**2) ** power * (v - coords @ basis.T)

    @property
    def dense(self) -> Float[Tensor, "size size"]:
        """Σ as a matrix."""
        axes = torch.eye(self.mean.numel(), dtype=self.mean.dtype, device=self.mean.device)
        return self._apply(axes, self.mean.new_zeros(()), 1)

    @cached_property
    def _singular(self) -> bool:
        basis, values, rest = self.spectrum
        thin = basis is not None and basis.shape[1] < basis.shape[0] and rest == 0
        return thin or values.min().item() == 0

    def _centre(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        v = (x - self.mean).flatten(1)
        sigma = match(sigma, v)
        if self._singular and (sigma == 0).any():
            raise ValueError(
                "sigma is 0, where this Gaussian has no density and no score: its covariance is "
                "singular, so its samples fill only a plane; give sigma > 0"
            )
        return v, sigma

    def sample(
        self, n: int, sigma: float | Float[Tensor, ""], *, noise: Noise = torch.randn_like
    ) -> Float[Tensor, "n *shape"]:
        """Return n samples of N(mean, Σ + σ²I)."""
        z = noise(self.mean.new_empty(n, *self.mean.shape))
        return self.mean + self._apply(z.flatten(1), match(sigma, z), 0.5).view_as(z)

    def score(
        self, x: Float[Tensor, "batch *shape"], sigma: Sigma
    ) -> Float[Tensor, "batch *shape"]:
        """Return −(Σ + σ²I)⁻¹(x − mean)."""
        v, sigma = self._centre(x, sigma)
        return -self._apply(v, sigma, -1).view_as(x)

    def log_prob(self, x: Float[Tensor, "batch *shape"], sigma: Sigma) -> Float[Tensor, "batch"]:
        """Return log N(x | mean, Σ + σ²I)."""
        v, sigma = self._centre(x, sigma)
        basis, values, rest = self.spectrum
        size = v.shape[1] if basis is None else basis.shape[1]
        log_det = (values + sigma**2).log().expand(len(v), size).sum(1)
        if size < v.shape[1]:
            log_det = log_det + (v.shape[1] - size) * (rest + sigma**2).log().flatten()
        square = (v * self._apply(v, sigma, -1)).sum(1)
        return -0.5 * (square + log_det + v.shape[1] * math.log(2 * math.pi))


def _zero_rounding(values: Tensor) -> Tensor:
    """Set eigenvalues in float64 to zero that differ from it by rounding."""
    return torch.where(
        values < 10 * len(values) * torch.finfo(values.dtype).eps * values.max(), 0, values
    )
