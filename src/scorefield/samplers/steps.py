"""One transition from σ to σ' < σ, each a pure function.

The probability-flow ODE of q_σ (Song et al. 2021, eq. 13, with σ as the time; Karras et al. 2022,
eq. 1) carries samples of one level to the next without noise:

    dx/dσ = −σ·s(x, σ)

The reverse diffusion of the same process (eq. 6) removes twice as much and puts noise back:

    dx = −2σ·s(x, σ) dσ + √(2σ) dw
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from .._ops import Noise
from ..score import Score


@runtime_checkable
class Step(Protocol):
    """(score, x, sigma, sigma_next, noise) -> (x at sigma_next, the last denoised)."""

    def __call__(
        self,
        score: Score,
        x: Float[Tensor, "batch *shape"],
        sigma: float,
        sigma_next: float,
        noise: Noise,
        /,
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch *shape"]]:
        """A sample of q at sigma_next from one at sigma."""


def euler(
    score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Euler's step, order 1; equal to DDIM (Song, Meng & Ermon 2021). To σ' = 0 it denoises."""
    s = score(x, sigma)
    return x.add(s, alpha=sigma * (sigma - sigma_next)), x.add(s, alpha=sigma**2)


def heun(
    score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Heun's step, order 2, two evaluations (Karras et al. 2022, Algorithm 1)."""
    half = (sigma - sigma_next) / 2
    s = score(x, sigma)
    x_euler = x.add(s, alpha=2 * half * sigma)
    s_next = score(x_euler, sigma_next)
    denoised = x_euler.add(s_next, alpha=sigma_next**2)
    return x.add(s, alpha=half * sigma).add(s_next, alpha=half * sigma_next), denoised


def reverse_diffusion(
    score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise
) -> tuple[Tensor, Tensor]:
    """The reverse diffusion as it was discretised forward (Song et al. 2021, appendix E)."""
    s, variance = score(x, sigma), sigma**2 - sigma_next**2
    x_next = x.add(s, alpha=variance).add(noise(x), alpha=math.sqrt(variance))
    return x_next, x.add(s, alpha=sigma**2)


def ancestral(
    score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise
) -> tuple[Tensor, Tensor]:
    """q(x' | x, x₀) with D(x) in the place of x₀ (Ho et al. 2020; Song et al. 2021, appendix F)."""
    s, variance = score(x, sigma), sigma**2 - sigma_next**2
    x_next = x.add(s, alpha=variance).add(noise(x), alpha=sigma_next / sigma * math.sqrt(variance))
    return x_next, x.add(s, alpha=sigma**2)
