"""The score of a smoothed distribution, and what it is equal to.

    s(x, σ) = ∇ₓ log q_σ(x),   q_σ(x) = ∫ p(t) N(x | t, σ²I) dt

Everything in this package takes such a function and nothing more. Its other views are exact:

    D(x, σ) = x + σ²·s(x, σ)     the denoiser E[x₀ | x]   (Tweedie; Robbins 1956, Efron 2011)
    ε(x, σ) = −σ·s(x, σ)         the noise E[z | x = x₀ + σz]
    s(x, σ) = −∇ₓE(x, σ)         an energy
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import Sigma, linearize, match, positive


@runtime_checkable
class Score(Protocol):
    """∇ₓ log q_σ(x), for a batch x and σ > 0 (σ = 0 where the density itself is known).

    It may state what it is for, `shape: torch.Size` (of one sample) and `device: torch.device`;
    samplers then refuse another start when they are called.
    """

    def __call__(
        self, x: Float[Tensor, "batch *shape"], sigma: Sigma, /
    ) -> Float[Tensor, "batch *shape"]:
        """The score of each sample, in the shape of x."""


def to_denoiser(score: Score) -> Score:
    """The denoiser D = x + σ²·s."""
    return _like(score, lambda x, sigma: x + match(sigma, x) ** 2 * score(x, sigma))


def from_denoiser(denoiser: Score) -> Score:
    """The score s = (D − x)/σ²."""
    return _like(denoiser, lambda x, sigma: (denoiser(x, sigma) - x) / positive(sigma, x) ** 2)


def to_noise(score: Score) -> Score:
    """The noise prediction ε = −σ·s."""
    return _like(score, lambda x, sigma: -match(sigma, x) * score(x, sigma))


def from_noise(noise_prediction: Score) -> Score:
    """The score s = −ε/σ."""
    return _like(
        noise_prediction, lambda x, sigma: -noise_prediction(x, sigma) / positive(sigma, x)
    )


def from_energy(energy: Callable[[Tensor, Sigma], Float[Tensor, "batch"]]) -> Score:
    """The score −∇ₓE of an energy, one number a sample; to be trained through like any other."""

    def score(x: Float[Tensor, "batch *shape"], sigma: Sigma) -> Float[Tensor, "batch *shape"]:
        value, pullback = linearize(lambda x: energy(x, sigma), x)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"energy returned shape {tuple(value.shape)} for a batch of {len(x)}: "
                "return one number per sample"
            )
        return -pullback(torch.ones_like(value))

    return score


def rescale(score: Score, scale: float, shift: float = 0.0) -> Score:
    """The score in another range of the data: `score` knows y = scale·x + shift, the result x.

    Noise scales with the data, so s_x(x, σ) = scale·s_y(scale·x + shift, |scale|·σ). A model of
    images in [−1, 1] becomes one of images in [0, 1] by `rescale(model, 2, -1)`.
    """
    if scale == 0:
        raise ValueError("scale is 0: give the factor from the new range to the score's own")
    return _like(score, lambda x, sigma: scale * score(scale * x + shift, abs(scale) * sigma))


def guide(conditional: Score, unconditional: Score, weight: float) -> Score:
    """Classifier-free guidance s = s_u + w·(s_c − s_u) (Ho & Salimans 2022, eq. 6).

    w = 0 is unconditional, 1 conditional, more than 1 sharpens; the paper's w is ours less 1.
    """
    return _like(
        conditional,
        lambda x, sigma: torch.lerp(unconditional(x, sigma), conditional(x, sigma), weight),
    )


def _like(part: Score, whole: Score) -> Score:
    """The whole with the shape and device of a part that states them, for samplers to check."""
    for name in ("shape", "device"):
        if hasattr(part, name):
            setattr(whole, name, getattr(part, name))
    return whole
