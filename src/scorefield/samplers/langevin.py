"""Langevin dynamics, at one noise level and down a ladder of them.

    x ← x + α/2·s(x, σ) + √α·z          (Song & Ermon 2019, eq. 4, "paper")
    x ← x + α·s(x, σ) + √(2α)·z         (their code for images, "official")

Both are the same chain with α counted differently: the same number is twice the step in the
"official" convention, which made the paper's images and is the default here.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .._ops import Noise
from ..score import Score
from .integrate import step_down
from .state import State, States, check_start, to_zero, without_gradients
from .steps import StepResult

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
    """Run Langevin dynamics at one σ, whose stationary distribution tends to q_σ as α → 0.

    Args:
        score: any score.
        x: where the chains start.
        sigma: noise level; 0 for the score of the data itself.
        alpha: α, the step size.
        steps: number of steps.
        convention: how α is counted, see above.
        noise: source of z.
    """
    score, _ = check_start(score, x, torch.ones(1))
    if isinstance(sigma, Tensor) or not 0 <= sigma < math.inf:
        raise ValueError(f"sigma={sigma}: give one noise level ≥ 0, as a float")
    drift = drift_factor(convention, "alpha", alpha, steps)
    return without_gradients(_langevin_steps)(score, x, sigma, drift, steps, noise)


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
    """Run annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1).

    Args:
        score: any score.
        x: where the chains start: a `Prior`'s sample, or `uniform_like` as the official code.
        sigmas: decreasing ladder σ₁ … σ_L.
        steps: T, the number of steps at each level.
        epsilon: ε, the step size at σ_L. The paper's 2e-5 belongs to a ladder that ends at 0.01;
            `suggest` chooses one for any other ladder.
        convention: how ε is counted, see above; a step is stable for ε below 2σ_L² ("official") or
            4σ_L² ("paper").
        denoise: end with x + σ_L²·s(x, σ_L) (Song & Ermon 2020, Algorithm 1).
        noise: source of z.
    """
    score, levels = check_start(score, x, sigmas)
    drift = drift_factor(convention, "epsilon", epsilon, steps)

    @without_gradients
    def run(x: Tensor) -> States:
        for i, sigma in enumerate(levels):
            alpha = drift * (sigma / levels[-1]) ** 2
            x = yield from _langevin_steps(score, x, sigma, alpha, steps, noise, done=i * steps)
        if denoise:
            x = yield from to_zero(score, x, levels[-1], len(levels) * steps + 1)
        return x

    return run(x)


def consistent(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float | None = None,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> States:
    """Run consistent annealed sampling (Jolicoeur-Martineau et al. 2021, §3).

    There is one Langevin step a level, x + ησ²s + βσ'z, where β makes the rest of the old noise
    and the new noise add up to σ': β² = 1 − (1−η)²σ²/σ'². With γ = σ'/σ, η = 1 − γ is Euler's step
    and η = 1 − γ² the ancestral one.

    Args:
        score: any score.
        x: where the chains start.
        sigmas: decreasing ladder, one level for each evaluation.
        eta: η = ε/σ_L², at least 1 − γ at every level. The paper tunes it for each model; the
            default is halfway between 1 − γ and 1 − γ², at each level.
        denoise: end with the step to σ = 0.
        noise: source of z.
    """
    score, levels = check_start(score, x, sigmas, denoise)
    least = max((1 - low / high for high, low in pairwise(levels)), default=0.0)
    if eta is not None and not least <= eta <= 1:
        raise ValueError(f"eta={eta}: on this ladder from {least:.4g} (no new noise) to 1")

    def step(score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise) -> StepResult:
        gamma = sigma_next / sigma
        own_eta = (1 - gamma) * (1 + gamma / 2) if eta is None else eta
        rest = (1 - own_eta) * sigma
        s, fresh = score(x, sigma), math.sqrt(max(sigma_next**2 - rest**2, 0.0))
        return x + own_eta * sigma**2 * s + fresh * noise(x), x + sigma**2 * s

    return step_down(step, score, x, levels, denoise, noise)


def drift_factor(convention: Convention, name: str, size: float, steps: int) -> float:
    """Return the factor of the score; that of the noise is √(2·drift) in both conventions."""
    if convention not in ("official", "paper"):
        raise ValueError(f"convention={convention!r}: 'official' (α·s) or 'paper' (α/2·s)")
    if not 0 < size < math.inf or steps < 1 or int(steps) != steps:
        raise ValueError(f"{name}={size}, steps={steps}: give a number > 0 and a whole number ≥ 1")
    return size if convention == "official" else size / 2


def _langevin_steps(
    score: Score, x: Tensor, sigma: float, alpha: float, steps: int, noise: Noise, done: int = 0
) -> States:
    diffusion = math.sqrt(2 * alpha)
    for step in range(done + 1, done + steps + 1):
        s = score(x, sigma)
        denoised = x + sigma**2 * s
        x = x + alpha * s + diffusion * noise(x)
        yield State(x, sigma, denoised, step)
    return x
