"""Steps from σ to σ' < σ, each a pure function.

The probability-flow ODE of q_σ (Song et al. 2021, eq. 13, with σ as the time; Karras et al. 2022,
eq. 1) takes samples of one level to another without noise:

    dx/dσ = −σ·s(x, σ)

The reverse diffusion of the same process (eq. 6) removes twice as much noise and adds new noise:

    dx = −2σ·s(x, σ) dσ + √(2σ) dw
"""

import math
from collections.abc import Callable
from typing import TypeAlias

from .._ops import Noise, Samples
from ..score import Score

StepResult: TypeAlias = tuple[Samples, Samples]
"""A sample at sigma_next, and the denoised sample of the last evaluation."""


Step: TypeAlias = Callable[[Score, Samples, float, float, Noise], StepResult]
"""A transition: it turns a sample of q at sigma into one at sigma_next < sigma."""


def euler(score: Score, x: Samples, sigma: float, sigma_next: float, noise: Noise) -> StepResult:
    """Take Euler's step, x' = x + σ(σ − σ')·s(x, σ): DDIM (Song, Meng & Ermon 2021), order 1.

    To σ' = 0 it denoises.
    """
    s = score(x, sigma)
    return x + sigma * (sigma - sigma_next) * s, x + sigma**2 * s


def heun(score: Score, x: Samples, sigma: float, sigma_next: float, noise: Noise) -> StepResult:
    """Take Heun's step, order 2, with two evaluations (Karras et al. 2022, Algorithm 1).

    x' = x + ½(σ − σ')·(σ·s(x, σ) + σ'·s(x̂, σ')), where x̂ is the end of Euler's step.
    """
    half = (sigma - sigma_next) / 2
    s = score(x, sigma)
    x_euler = x + 2 * half * sigma * s
    s_next = score(x_euler, sigma_next)
    return x + half * (sigma * s + sigma_next * s_next), x_euler + sigma_next**2 * s_next


def reverse_diffusion(
    score: Score, x: Samples, sigma: float, sigma_next: float, noise: Noise
) -> StepResult:
    """Discretise the reverse diffusion like the forward one (Song et al. 2021, appendix E).

    x' = x + (σ² − σ'²)·s(x, σ) + √(σ² − σ'²)·z
    """
    s, variance = score(x, sigma), sigma**2 - sigma_next**2
    return x + variance * s + math.sqrt(variance) * noise(x), x + sigma**2 * s


def ancestral(
    score: Score, x: Samples, sigma: float, sigma_next: float, noise: Noise
) -> StepResult:
    """Sample q(x' | x, x₀ = D(x)) (Ho et al. 2020; Song et al. 2021, appendix F).

    x' = x + (σ² − σ'²)·s(x, σ) + σ'/σ·√(σ² − σ'²)·z
    """
    s, variance = score(x, sigma), sigma**2 - sigma_next**2
    width = sigma_next / sigma * math.sqrt(variance)
    return x + variance * s + width * noise(x), x + sigma**2 * s
