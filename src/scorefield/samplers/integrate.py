"""Samplers down a grid of σ: any one-step method, EDM's churn, and DPM-Solver++(2M)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from .._ops import Noise
from ..score import Score
from .state import State, States, check_start, to_zero, without_gradients
from .steps import Step, StepResult, heun


def integrate(
    step: Step,
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> States:
    """Take a step from each level to the next: `integrate(heun, score, x, sigmas)`.

    Args:
        step: the transition, such as `euler` or `heun`.
        score: any score.
        x: samples of q at sigmas[0], usually `prior.sample(n, sigmas[0])`.
        sigmas: decreasing grid.
        denoise: end with the step to σ = 0, which is x + σ²s for every method.
        noise: source of noise, for steps that add some.
    """
    score, levels = check_start(score, x, sigmas, denoise)
    return step_down(step, score, x, levels, denoise, noise)


def churn(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    amount: float = 40.0,
    s_min: float = 0.05,
    s_max: float = 50.0,
    s_noise: float = 1.003,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> States:
    """Add noise up to a higher σ before each of Heun's steps (Karras et al. 2022, Algorithm 2).

    Args:
        score: any score.
        x: where the chains start.
        sigmas: decreasing grid.
        amount: S_churn, the total over all steps; 0 is Heun's method. The defaults are the paper's
            for ImageNet at 64².
        s_min: lowest σ that is raised.
        s_max: highest σ that is raised.
        s_noise: factor of the added noise; above 1 it makes up for what the model over-smooths.
        denoise: end with the step to σ = 0.
        noise: source of noise.
    """
    score, levels = check_start(score, x, sigmas, denoise)
    if not (0 <= amount < math.inf and 0 <= s_noise < math.inf):
        raise ValueError(f"amount={amount}, s_noise={s_noise}: give finite numbers ≥ 0")
    # the paper counts the step to 0 among its N
    gamma = min(amount / len(levels), math.sqrt(2) - 1)

    def step(score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise) -> StepResult:
        sigma_hat = sigma * (1 + gamma) if s_min <= sigma <= s_max else sigma
        if sigma_hat > sigma:
            x = x + s_noise * math.sqrt(sigma_hat**2 - sigma**2) * noise(x)
        return heun(score, x, sigma_hat, sigma_next, noise)

    return step_down(step, score, x, levels, denoise, noise)


def dpm_solver(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> States:
    """DPM-Solver++(2M): order 2 with one evaluation a step (Lu et al. 2022b, Algorithm 2).

    A step is exact where D is constant, and corrects for the slope of D by its last two values.
    The arguments are `integrate`'s; `noise` is not used.
    """
    score, levels = check_start(score, x, sigmas, denoise)
    h_last, d_last = math.inf, x  # an infinite step before the first makes its slope 0

    def step(score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise) -> StepResult:
        nonlocal h_last, d_last
        h, d = math.log(sigma / sigma_next), x + sigma**2 * score(x, sigma)
        slope = (d - d_last) / (2 * (h_last / h))
        h_last, d_last = h, d
        return sigma_next / sigma * x - math.expm1(-h) * (d + slope), d

    return step_down(step, score, x, levels, denoise, noise)


@without_gradients
def step_down(
    step: Step, score: Score, x: Tensor, levels: list[float], denoise: bool, noise: Noise
) -> States:
    """Take the steps of `integrate`, whose arguments have been checked."""
    for i, (sigma, sigma_next) in enumerate(pairwise(levels), 1):
        x, denoised = step(score, x, sigma, sigma_next, noise)
        yield State(x, sigma_next, denoised, i)
    if denoise:
        x = yield from to_zero(score, x, levels[-1], len(levels))
    return x
