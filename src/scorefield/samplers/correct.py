"""Predictor–corrector sampling (Song et al. 2021, Algorithms 2 and 4).

A predictor carries q at σ to q at σ'; a few Langevin steps at σ' then undo some of its error:

    x ← x + α·s(x, σ') + √(2α)·z
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .._ops import Noise, sq_norm
from ..score import Score
from .state import State, States, check_steps, to_zero, without_gradients
from .steps import Step, reverse_diffusion

Rule = Literal["sample", "batch"]


def predictor_corrector(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    predictor: Step = reverse_diffusion,
    corrections: int = 1,
    ratio: float = 0.16,
    rule: Rule = "sample",
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> States:
    """A step of the predictor, then Langevin corrections, at each level.

    Args:
        score: any score.
        x: where the chains start.
        sigmas: decreasing grid.
        predictor: the step from one level to the next.
        corrections: Langevin steps at each.
        ratio: r, the signal-to-noise ratio of a correction (0.16 for CIFAR-10).
        rule: α = 2r²σ², the same for any sample ("sample"); or score_sde's 2(r·mean‖z‖/mean‖s‖)²,
            by which a sample depends on the rest of its batch ("batch").
        denoise: end with the step to σ = 0.
        noise: source of noise.
    """
    score, levels = check_steps(score, x, sigmas, denoise)
    if rule not in ("sample", "batch"):
        raise ValueError(f"rule={rule!r}: 'sample' (α = 2r²σ²) or 'batch' (score_sde's)")
    if corrections < 0 or int(corrections) != corrections or not 0 < ratio < math.inf:
        raise ValueError(
            f"corrections={corrections}, ratio={ratio}: give a whole number ≥ 0, a ratio > 0"
        )
    return _alternate(score, x, levels, predictor, corrections, ratio, rule, denoise, noise)


@without_gradients
def _alternate(
    score: Score,
    x: Tensor,
    levels: list[float],
    predictor: Step,
    corrections: int,
    ratio: float,
    rule: Rule,
    denoise: bool,
    noise: Noise,
) -> States:
    for i, (sigma, sigma_next) in enumerate(pairwise(levels), 1):
        x, denoised = predictor(score, x, sigma, sigma_next, noise)
        for _ in range(corrections):
            s, z = score(x, sigma_next), noise(x)
            reach = sigma_next if rule == "sample" else _mean_norm(z) / _mean_norm(s)
            alpha = 2 * (ratio * reach) ** 2
            denoised = x.add(s, alpha=sigma_next**2)
            x = x.add(s, alpha=alpha).add(z, alpha=math.sqrt(2 * alpha))
        yield State(x, sigma_next, denoised, i)
    if denoise:
        x = yield from to_zero(score, x, levels[-1], len(levels))
    return x


def _mean_norm(x: Tensor) -> float:
    """The mean over a batch of ‖x‖."""
    return sq_norm(x).sqrt().mean().clamp(min=torch.finfo(x.dtype).tiny).item()
