"""Langevin dynamics, at one noise level and down a ladder of them.

    x ← x + α/2·s(x, σ) + √α·z          (Song & Ermon 2019, eq. 4, "paper")
    x ← x + α·s(x, σ) + √(2α)·z         (their code for images, "official")

The two are one chain with α counted differently: the same number is twice the step in the official
convention, which made the paper's images and is the default here.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .._ops import Noise
from ..score import Score
from .integrate import descend
from .state import State, States, check, check_steps, to_zero, without_gradients

Convention = Literal["official", "paper"]


def langevin(
    score: Score,
    x: Tensor,
    sigma: float,
    *,
    alpha: float,
    steps: int = 100,
    convention: Convention = "official",
    noise: Noise = torch.randn_like,
) -> States:
    """Plain Langevin dynamics at one σ, whose stationary law is q_σ as α → 0.

    Args:
        score: any score.
        x: where the chains start.
        sigma: noise level; 0 if the score is that of the data itself.
        alpha: step size.
        steps: how many.
        convention: how α is counted, see above.
        noise: source of z.
    """
    score, _ = check(score, x, torch.ones(1))
    if isinstance(sigma, Tensor) or not 0 <= sigma < math.inf:
        raise ValueError(f"sigma={sigma}: give one noise level ≥ 0, as a float")
    drift = _drift(convention, "alpha", alpha, steps)
    return without_gradients(_langevin)(score, x, sigma, drift, steps, noise)


def annealed_langevin(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    steps: int = 100,
    epsilon: float = 2e-5,
    convention: Convention = "official",
    denoise: bool = False,
    noise: Noise = torch.randn_like,
) -> States:
    """Annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1).

    Args:
        score: any score.
        x: where the chains start: a `Prior`'s sample, or `uniform_like` as the official code.
        sigmas: decreasing ladder σ₁ … σ_L.
        steps: T, at each level.
        epsilon: ε, the step size at σ_L. The paper's 2e-5 belongs to a ladder that ends at 0.01;
            `suggest` gives the one for yours.
        convention: how ε is counted, see above; stable below 2σ_L² if official, 4σ_L² if paper.
        denoise: end with x + σ_L²·s(x, σ_L) (Song & Ermon 2020, Algorithm 1).
        noise: source of z.
    """
    score, levels = check(score, x, sigmas)
    drift = _drift(convention, "epsilon", epsilon, steps)
    return _annealed(score, x, levels, drift, steps, denoise, noise)


def consistent(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float | None = None,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> States:
    """Consistent annealed sampling (Jolicoeur-Martineau et al. 2021, §3).

    One Langevin step a level, x + ησ²s + βσ'z, with β such that what is left of the old noise and
    the new are σ' together: β² = 1 − (1−η)²σ²/σ'². With γ = σ'/σ, η = 1 − γ is Euler's step and
    η = 1 − γ² the ancestral one.

    Args:
        score: any score.
        x: where the chains start.
        sigmas: decreasing ladder, as long as there may be evaluations.
        eta: η = ε/σ_L², at least 1 − γ at each level. The paper tunes it for each model; if not
            given it is halfway from 1 − γ to 1 − γ², whatever the ladder.
        denoise: end with the step to σ = 0.
        noise: source of z.
    """
    score, levels = check_steps(score, x, sigmas, denoise)
    least = max((1 - low / high for high, low in pairwise(levels)), default=0.0)
    if eta is not None and not least <= eta <= 1:
        raise ValueError(f"eta={eta}: on this ladder from {least:.4g} (no new noise) to 1")

    def step(
        score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        gamma = sigma_next / sigma
        share = (1 - gamma) * (1 + gamma / 2) if eta is None else eta
        left = (1 - share) * sigma
        fresh = math.sqrt(max(sigma_next**2 - left**2, 0.0))
        s = score(x, sigma)
        x_next = x.add(s, alpha=share * sigma**2).add(noise(x), alpha=fresh)
        return x_next, x.add(s, alpha=sigma**2)

    return descend(step, score, x, levels, denoise, noise)


def _drift(convention: Convention, name: str, size: float, steps: int) -> float:
    """The factor before the score; the noise's is √(2·drift) in both conventions."""
    if convention not in ("official", "paper"):
        raise ValueError(f"convention={convention!r}: 'official' (α·s) or 'paper' (α/2·s)")
    if not 0 < size < math.inf or steps < 1 or int(steps) != steps:
        raise ValueError(f"{name}={size}, steps={steps}: both positive, steps a whole number")
    return size if convention == "official" else size / 2


@without_gradients
def _annealed(
    score: Score,
    x: Tensor,
    levels: list[float],
    epsilon: float,
    steps: int,
    denoise: bool,
    noise: Noise,
) -> States:
    for i, sigma in enumerate(levels):
        alpha = epsilon * (sigma / levels[-1]) ** 2
        x = yield from _langevin(score, x, sigma, alpha, steps, noise, done=i * steps)
    if denoise:
        x = yield from to_zero(score, x, levels[-1], len(levels) * steps + 1)
    return x


def _langevin(
    score: Score, x: Tensor, sigma: float, alpha: float, steps: int, noise: Noise, done: int = 0
) -> States:
    diffusion = math.sqrt(2 * alpha)
    for step in range(done + 1, done + steps + 1):
        s = score(x, sigma)
        denoised = x.add(s, alpha=sigma**2)
        x = x.add(s, alpha=alpha).add(noise(x), alpha=diffusion)
        yield State(x, sigma, denoised, step)
    return x
