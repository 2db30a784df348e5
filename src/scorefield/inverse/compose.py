"""Several observations: the score of a product of posteriors over their prior.

    p(θ | x₁ … x_n) ∝ p(θ)^{1−n}·Πᵢ p(θ | xᵢ)

The sum of the scores, (1 − n)·s₀ + Σ sᵢ, is the score of the product at σ = 0 only. At σ > 0 the
same product holds for the clean θ of a noisy one, p(θ | θ_σ, x₁ … x_n). Its factors are taken as
Gaussians N(Dᵢ, Vᵢ) with their exact moments (Linhart et al. 2024, whose algorithm JAC this is). It
is exact if all are Gaussians. Otherwise it errs by the higher moments, which vanish with σ: for a
product of three mixtures of two Gaussians of standard deviation 0.2, at distance 1.5, by 0.07 % of
the score at σ = 0.05, 3 % at 0.2, 28 % at 0.5 and 4 % at 10, where the sum of the scores errs by
11, 85, 94 and 3 %.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Samples, Sigma, linearize, positive, wide
from ..score import Score, keep_shape_and_device, to_denoiser

LEAST_SHARE = 1e-6
"""Smallest variance of a clean θ that is believed, over σ²; a trained Jacobian may have less."""


def compose(posteriors: Sequence[Score], prior: Score) -> Score:
    """Return the score of p(θ | x₁ … x_n), from those of each p(θ | xᵢ) and of p(θ).

        Dᵢ = θ_σ + σ²·sᵢ,   Vᵢ = σ²·∂Dᵢ/∂θ_σ,   Eᵢ = Vᵢ⁻¹ − V₀⁻¹,   V⁻¹ = V₀⁻¹ + Σ Eᵢ
        D = V·(V₀⁻¹·(D₀ + Σ (Dᵢ − D₀)) + Σ Eᵢ·Dᵢ),   s = (D − θ_σ)/σ²

    s₀ is the score of the prior. An evaluation takes one of each score and its Jacobian, so θ
    should have few numbers. No observation can make θ less certain: negative directions of Eᵢ,
    which a trained or a multimodal score may have, count as 0.

    >>> score = compose([model.given(x) for x in observations], model)
    """
    if not posteriors:
        raise ValueError("posteriors is empty: give a score for each observation")

    def product(x: Samples, sigma: Sigma) -> Samples:
        variance = wide(positive(sigma, x) ** 2).reshape(-1, 1, 1)
        first, precision = _moments(prior, x, sigma, variance)
        total, shift, pull = precision, first, torch.zeros_like(first)
        for posterior in posteriors:
            mean, own = _moments(posterior, x, sigma, variance)
            values, vectors = torch.linalg.eigh(own - precision)
            extra = vectors * values.clamp(min=0)[:, None] @ vectors.mT
            total, shift, pull = total + extra, shift + mean - first, pull + extra @ mean
        clean = torch.linalg.solve(total, precision @ shift + pull)
        score: Tensor = (clean - wide(x).reshape(len(x), -1, 1)) / variance
        return score.to(x).view(x.shape)

    return keep_shape_and_device(prior, product)


def _moments(
    score: Score, x: Tensor, sigma: Sigma, variance: Float[Tensor, "_rows 1 1"]
) -> tuple[Float[Tensor, "batch size 1"], Float[Tensor, "batch size size"]]:
    """Return the mean and the inverse covariance of the clean θ of each noisy one."""
    mean, pullback = linearize(lambda x: to_denoiser(score)(x, sigma), x)
    size = x[0].numel()
    basis = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *x.shape[1:])
    rows = wide(pullback(basis.expand(size, *x.shape), batched=True)).flatten(2).transpose(0, 1)
    values, vectors = torch.linalg.eigh((rows + rows.mT) / 2)
    precision = vectors / values.clamp(min=LEAST_SHARE)[:, None] @ vectors.mT / variance
    return wide(mean).reshape(len(x), -1, 1), precision
