"""The Gaussian where a chain starts and a likelihood ends.

    q_σ ≈ N(mean, Σ + σ²I)   for σ so large that q_σ depends on two moments of the data alone

N(0, σ₁²I) in its place would give modes wrong weights: the mean of the data is not 0, and its
spread is not negligible compared with σ₁.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import Noise, Samples, Sigma, check_batch, check_finite, check_fits, lowest, match
from .covariance import Covariance, dense, low_rank


def normalise(weights: Tensor | None, data: Tensor) -> Float[Tensor, "n"]:
    """Return the weights of n ≥ 1 samples, by default equal, divided by their sum."""
    check_batch(data, "data")
    check_finite(data, "data")
    n = len(data)
    weights = data.new_ones(n) if weights is None else weights
    if weights.shape != (n,) or not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
        raise ValueError(f"weights must be {n} numbers ≥ 0, one per sample, not all 0")
    return weights / weights.sum()


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
        for name in ("mean", "cov", *(() if self.factor is None else ("factor",))):
            check_finite(getattr(self, name), name)
        size, cov, factor = self.mean.numel(), self.cov, self.factor
        if cov.shape not in (torch.Size(), self.mean.shape, (size, size)):
            raise ValueError(
                f"cov has shape {tuple(cov.shape)} for a mean of shape "
                f"{tuple(self.mean.shape)}: give a scalar, a diagonal in the mean's shape, or a "
                f"{size} × {size} matrix"
            )
        if factor is not None and (cov.ndim > 0 or factor.ndim != 2 or len(factor) != size):
            raise ValueError(f"factor must have {size} rows, and cov must be a scalar with it")

    @classmethod
    def fit(
        cls,
        data: Float[Tensor, "n *shape"],
        weights: Float[Tensor, "n"] | None = None,
        blur: float = 0.0,
    ) -> "Prior":
        """Return the Gaussian with the moments of weighted samples and `blur` added variance.

        The covariance is dense up to 1,024 dimensions and diagonal above.
        """
        share = normalise(weights, data)
        mean = torch.tensordot(share, data, 1)
        gap = (data - mean).flatten(1) * share.sqrt()[:, None]
        if mean.numel() > 1024:
            return cls(mean, gap.square().sum(0).view_as(mean) + blur)
        return cls(mean, gap.T @ gap + blur * torch.eye(mean.numel()).to(mean))

    @cached_property
    @torch.inference_mode(False)  # it is for later calls too
    def covariance(self) -> Covariance:
        """Σ."""
        if self.factor is not None:
            cov = low_rank(self.cov, self.factor)
        elif self.cov.shape in (torch.Size(), self.mean.shape):
            cov = Covariance(self.cov.expand(self.mean.shape).flatten())
        else:
            cov = dense(self.cov)
        if cov.values.min() < 0:
            raise ValueError("cov is not a covariance: it has a negative variance")
        return cov

    @property
    def dense(self) -> Float[Tensor, "size size"]:
        """Σ as a matrix."""
        return self.covariance @ torch.eye(self.mean.numel()).to(self.mean)

    @property
    def deviation(self) -> float:
        """Root mean square of the standard deviations of a sample's numbers."""
        return math.sqrt(self.covariance.values.mean().item())

    def check_shape(self, x: Tensor) -> None:
        """Raise unless x is a batch of samples in the shape of the mean."""
        check_fits(x, self.mean.shape, None, "the prior")

    def _centre(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        self.check_shape(x)
        least, v = lowest(sigma), (x - self.mean).flatten(1)
        sigma = match(sigma, v)
        if least == 0 and self.covariance.values.min() == 0:
            raise ValueError(
                "sigma is 0, where this Gaussian has no density and no score: its covariance is "
                "singular, so its samples fill only a plane; give sigma > 0"
            )
        return v, sigma

    def sample(
        self, n: int, sigma: float | Float[Tensor, ""], *, noise: Noise = torch.randn_like
    ) -> Float[Tensor, "n *shape"]:
        """Return n samples of N(mean, Σ + σ²I)."""
        lowest(sigma)
        z = noise(self.mean.new_empty(n, *self.mean.shape))
        root = self.covariance.power(match(sigma, z), 0.5)
        return self.mean + (root @ z.flatten(1)).view_as(z)

    def score(self, x: Samples, sigma: Sigma) -> Samples:
        """Return −(Σ + σ²I)⁻¹(x − mean)."""
        v, sigma = self._centre(x, sigma)
        return -(self.covariance.power(sigma, -1) @ v).view_as(x)

    def log_prob(self, x: Samples, sigma: Sigma) -> Float[Tensor, "batch"]:
        """Return log N(x | mean, Σ + σ²I)."""
        v, sigma = self._centre(x, sigma)
        precision = self.covariance.power(sigma, -1)
        square = (v * (precision @ v)).sum(1)
        return 0.5 * (precision.values / (2 * math.pi)).log().sum(-1) - 0.5 * square
