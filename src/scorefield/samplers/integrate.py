"""From the top of a grid to its end, with any one-step method."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .._ops import Noise
from ..score import Score
from .state import State, States, check
from .steps import Step, euler


def integrate(
    step: Step,
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> States:
    """Take x, a sample of q at sigmas[0], down the grid: `integrate(heun, score, x, sigmas)`.

    Args:
        step: the transition, such as `euler` or `heun`.
        score: any score.
        x: where the chains start, usually `prior.sample(n, sigmas[0])`.
        sigmas: decreasing grid.
        denoise: end with the step to σ = 0, which is x + σ²s whatever the method.
        noise: source of noise for the steps that use any.
    """
    score, levels = check(score, x, sigmas)
    if len(levels) == 1 and not denoise:
        raise ValueError("sigmas has one level and denoise=False: there is no step to take")
    return _integrate(step, score, x, levels, denoise, noise)


@torch.no_grad()
def _integrate(
    step: Step, score: Score, x: Tensor, levels: list[float], denoise: bool, noise: Noise
) -> States:
    for i, (sigma, sigma_next) in enumerate(pairwise(levels), 1):
        x, denoised = step(score, x, sigma, sigma_next, noise)
        yield State(x, sigma_next, denoised, i)
    if denoise:
        x, denoised = euler(score, x, levels[-1], 0.0, noise)
        yield State(x, 0.0, denoised, len(levels))
    return x
