"""The score of a smoothed distribution, and conversions to its equivalents.

    s(x, σ) = ∇ₓ log q_σ(x),   q_σ(x) = ∫ p(t) N(x | t, σ²I) dt

Samplers, objectives and inverse problems need such a function only. It is equivalent to

    D(x, σ) = x + σ²·s(x, σ)     the denoiser E[x₀ | x]   (Tweedie; Robbins 1956, Efron 2011)
    ε(x, σ) = −σ·s(x, σ)         the noise E[z | x = x₀ + σz]
    s(x, σ) = −∇ₓE(x, σ)         an energy
"""

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import Samples, Sigma, check_returned, linearize, match, positive

SigmaRange: TypeAlias = tuple[float, float]
"""Smallest and largest σ."""
EVERY_SIGMA = (0.0, math.inf)
"""SigmaRange of guidance at all noise levels."""


@runtime_checkable
class Score(Protocol):
    """∇ₓ log q_σ(x), for a batch x and σ > 0 (σ = 0 where the density itself is known).

    A score may have the attributes `shape: torch.Size`, of one sample, and `device: torch.device`.
    A sampler then refuses a start that does not fit when it is called. It may also have a method
    `log_prob(x, sigma)`, log q_σ(x) up to a constant at each σ, which `mala` and `hmc` need.
    """

    def __call__(self, x: Samples, sigma: Sigma, /) -> Samples:
        """Return the score of each sample, in the shape of x."""


def to_denoiser(score: Score) -> Score:
    """Return the denoiser D = x + σ²·s."""
    return keep_shape_and_device(score, lambda x, sigma: x + match(sigma, x) ** 2 * score(x, sigma))


def from_denoiser(denoiser: Score) -> Score:
    """Return the score s = (D − x)/σ²."""
    return keep_shape_and_device(
        denoiser, lambda x, sigma: (denoiser(x, sigma) - x) / positive(sigma, x) ** 2
    )


def to_noise(score: Score) -> Score:
    """Return the noise prediction ε = −σ·s."""
    return keep_shape_and_device(score, lambda x, sigma: -match(sigma, x) * score(x, sigma))


def from_noise(noise_prediction: Score) -> Score:
    """Return the score s = −ε/σ."""
    return keep_shape_and_device(
        noise_prediction, lambda x, sigma: -noise_prediction(x, sigma) / positive(sigma, x)
    )


def from_energy(energy: Callable[[Samples, Sigma], Float[Tensor, "batch"]]) -> Score:
    """Return the score −∇ₓE of an energy, one number a sample. It can be trained through.

    Its `log_prob` is −E.
    """

    def score(x: Samples, sigma: Sigma) -> Samples:
        value, pullback = linearize(lambda x: energy(x, sigma), x)
        check_returned(value, x, "energy", per_sample=True)
        return -pullback(torch.ones_like(value))

    score.log_prob = lambda x, sigma: -energy(x, sigma)  # type: ignore[attr-defined]
    return score


def rescale(score: Score, scale: float, shift: float = 0.0) -> Score:
    """Return the score of x, where `score` is the score of y = scale·x + shift.

    Noise scales with the data, so s_x(x, σ) = scale·s_y(scale·x + shift, |scale|·σ). A model of
    images in [−1, 1] becomes one of images in [0, 1] by `rescale(model, 2, -1)`.
    """
    if scale == 0 or not math.isfinite(scale * shift):
        raise ValueError(
            f"scale={scale}, shift={shift}: give finite numbers, the factor from the new range to "
            "the score's own and what to add"
        )
    return keep_shape_and_device(
        score, lambda x, sigma: scale * score(scale * x + shift, abs(scale) * sigma)
    )


def guide(
    conditional: Score, unconditional: Score, weight: float, *, interval: SigmaRange = EVERY_SIGMA
) -> Score:
    """Return the classifier-free guidance s = s_u + w·(s_c − s_u) (Ho & Salimans 2022, eq. 6).

    w = 0 is unconditional, w = 1 conditional, and w > 1 sharpens. The paper's w is ours minus 1.
    Outside of an interval of σ, w is 1 (Kynkäänniemi et al. 2024), and s_u is not called for a
    single σ. With a weaker model of the same condition for s_u this is autoguidance (Karras et al.
    2024).
    """
    weigh = weight_at(weight, interval)

    def guidance(x: Tensor, sigma: Sigma) -> Tensor:
        s_c = conditional(x, sigma)
        if _is_outside(sigma, interval):
            return s_c
        s_u = unconditional(x, sigma)
        return s_u + weigh(x, sigma) * (s_c - s_u)

    return keep_shape_and_device(conditional, guidance)


def weight_at(weight: float, interval: SigmaRange) -> Callable[[Tensor, Sigma], float | Tensor]:
    """Return the weight as a function of (x, σ), 1 outside of the interval."""
    if not math.isfinite(weight):
        raise ValueError(f"weight={weight}: give a finite strength of the guidance")
    low, high = interval
    if not 0 <= low < high:
        raise ValueError(f"interval={interval}: give two noise levels, 0 ≤ low < high")
    if (low, high) == EVERY_SIGMA:
        return lambda x, sigma: weight

    def weigh(x: Tensor, sigma: Sigma) -> Tensor:
        level = match(sigma, x)
        return torch.where((low <= level) & (level <= high), match(weight, x), match(1.0, x))

    return weigh


def _is_outside(sigma: Sigma, interval: SigmaRange) -> bool:
    """Return True if σ is one number outside; a GPU's is not read, because that would wait."""
    if isinstance(sigma, Tensor) and (sigma.numel() != 1 or sigma.device.type != "cpu"):
        return False
    return not interval[0] <= float(sigma) <= interval[1]


def keep_shape_and_device(part: Score, whole: Score) -> Score:
    """Give the whole the shape and device of a part that has them, for samplers to check."""
    for name in ("shape", "device"):
        if hasattr(part, name):
            setattr(whole, name, getattr(part, name))
    return whole
