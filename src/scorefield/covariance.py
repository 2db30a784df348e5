"""Covariances Σ of flat vectors by their eigenvalues, and the powers of Σ + σ²I.

    diagonal      Σ = diag(values), the variances in each dimension; v·I if all are v
    dense         Σ = Q·diag(values)·Qᵀ, of any matrix
    low rank      Σ = v·I + FFᵀ: eigenvalues v + s² along F's left singular vectors, v across them

Σ + σ²I has the same axes Q, so `covariance.power(sigma, p) @ v` needs no decomposition of its own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import wide


@dataclass(frozen=True, eq=False)
class Covariance:
    """A symmetric matrix by its eigenvalues, or one for each vector of a batch.

    Attributes:
        values: All eigenvalues, first those along the columns of `axes`; the others are equal.
        axes: Q, orthonormal columns; None for the coordinate axes.
    """

    values: Float[Tensor, "*batch size"]
    axes: Float[Tensor, "size rank"] | None = None

    def power(self, sigma: Float[Tensor, ""] | Float[Tensor, "batch 1"], p: float) -> "Covariance":
        """Return (Σ + σ²I)ᵖ, in the type of σ."""
        return Covariance((self.values.to(sigma) + sigma**2) ** p, self.axes)

    def __matmul__(self, v: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
        """Return Σv for each row v."""
        if self.axes is None:
            return self.values * v
        axes, rank = self.axes.to(v), self.axes.shape[1]
        coordinates = v @ axes
        along = (self.values[..., :rank] * coordinates) @ axes.T
        if rank == len(axes):
            return along
        return along + self.values[..., -1:] * (v - coordinates @ axes.T)


def dense(matrix: Float[Tensor, "size size"]) -> Covariance:
    """Return the covariance of a matrix, after checking that it is one."""
    cov, eps = wide(matrix), torch.finfo(matrix.dtype).eps
    values, axes = torch.linalg.eigh(cov)
    slack = 10 * len(values) * eps * values.abs().max()
    if (cov - cov.T).abs().max() > slack or values.min() < -slack:
        raise ValueError(
            "cov is not a covariance: it must be symmetric, with no negative eigenvalue"
        )
    return Covariance(_zero_rounding(values).to(matrix), axes.to(matrix))


def low_rank(variance: Float[Tensor, ""], factor: Float[Tensor, "size rank"]) -> Covariance:
    """Return variance·I + factor·factorᵀ."""
    axes, scales, _ = torch.linalg.svd(wide(factor), full_matrices=False)
    values = scales.new_zeros(len(axes))
    values[: len(scales)] = _zero_rounding(scales**2)
    return Covariance((values + wide(variance)).to(factor), axes.to(factor))


def _zero_rounding(values: Float[Tensor, "axes"]) -> Float[Tensor, "axes"]:
    """Set eigenvalues in float64 to zero that differ from it by rounding."""
    slack = 10 * len(values) * torch.finfo(values.dtype).eps * values.max()
    return torch.where(values < slack, 0, values)
