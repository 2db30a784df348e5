"""Samplers whose steps overwrite the part of x_σ that y = Ax + σ_y·n measures.

    repaint   ancestral steps, whose measured part becomes y + noise, and jumps back to a higher σ
    ddrm      steps whose measured part goes towards y, in each direction of AᵀA

In a direction of eigenvalue λ, y shows x₀ with noise of variance σ_y²/λ. While σ² is larger, x_σ is
y with more noise there; below, DDRM moves D by a share of its distance from y. RePaint needs
a noiseless y: its jumps back would forget a direction in which y ends.
"""

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise
from ..samplers import State, ancestral
from ..samplers.state import sampler
from ..score import Score
from .operators import LinearOperator
from .posterior import pinv_above
from .split import check_observation


@sampler(partial(check_observation, sigma_y=0.0))
def repaint(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    jump: int = 1,
    resamplings: int = 10,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Sample by RePaint (Lugmayr et al. 2022, Algorithm 1), with one evaluation a step.

        x' = u + A⁺(y + σ'·(AAᵀ)^½·n − A·u),   u an ancestral step from x

    Each `jump` levels are taken `resamplings` times, with noise that takes x back up in between. So
    the unknown part adapts to y. For a Gaussian it is exact for many resamplings and small steps.
    """
    y, levels = y.to(x), sigmas.tolist()
    x = _overwrite(operator, y, 0.0, x, levels[0], noise)
    for first in range(0, len(levels) - 1, jump):
        part = levels[first : first + jump + 1]
        for repetition in range(resamplings):
            x = x + math.sqrt(part[0] ** 2 - part[-1] ** 2) * noise(x) if repetition else x
            for sigma, low in pairwise(part):
                x, denoised = ancestral(score, x, sigma, low, noise)
                x = _overwrite(operator, y, 0.0, x, low, noise)
                yield State(x, low, denoised)
    x = x + levels[-1] ** 2 * score(x, levels[-1])
    x = operator.project(x, y)
    yield State(x, 0.0, x)


@sampler(check_observation)
def ddrm(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    sigma_y: float = 0.0,
    eta: float = 0.85,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Sample by denoising diffusion restoration (Kawar et al. 2022, eq. 8), with η_b = 1.

        x' = D + √(1 − η²)·σ'·(x − D)/σ + ησ'·n             where λ = 0
        x' = D + √(1 − η²)·σ'·(A⁺y − D)·√λ/σ_y + ησ'·n      where 0 < σ'²λ < σ_y²
        x' = A⁺y + √(σ'² − σ_y²/λ)·n                        elsewhere

    λ is the eigenvalue of AᵀA in a direction of x. One evaluation a level. A share `eta`² of the
    variance of x_σ' is new noise. No singular vectors are needed, because the gram of the operator
    acts on the eigenvalues of AAᵀ.
    """
    y, levels = y.to(x), sigmas.tolist()
    x = _overwrite(operator, y, sigma_y, x, levels[0], noise)
    for sigma, low in pairwise([*levels, 0.0]):
        denoised = x + sigma**2 * score(x, sigma)

        def pull(values: Tensor, low: float = low) -> Tensor:
            """Return the share of y − A·D by which the mean moves."""
            share = math.sqrt(1 - eta**2) * low / max(sigma_y, 1e-30) * values.sqrt()
            return torch.where(low**2 * values >= sigma_y**2, 1, share)

        def deviation(values: Tensor, low: float = low) -> Tensor:
            """Return the deviation of the new noise, as measured."""
            excess = low**2 * values - sigma_y**2
            return torch.where(excess >= 0, excess, eta**2 * low**2 * values).sqrt()

        rest = math.sqrt(1 - eta**2) * low / sigma * (x - denoised) + eta * low * noise(x)
        gap = operator.keep_observed(operator.gap(y, denoised))
        z = operator.keep_observed(noise(gap))
        measured = operator.gram(pull, gap) + operator.gram(deviation, z)
        x = denoised + rest + operator.pinv(measured - operator(rest))
        yield State(x, low, denoised)


def _overwrite(
    operator: LinearOperator, y: Tensor, sigma_y: float, x: Tensor, sigma: float, noise: Noise
) -> Tensor:
    """Replace x where σ²AAᵀ exceeds σ_y², by y with more noise."""

    def deviation(values: Tensor) -> Tensor:
        return (values * sigma**2 - sigma_y**2).clamp(min=0).sqrt()

    gap = operator.keep_observed(operator.gap(y, x))
    gap = gap + operator.gram(deviation, operator.keep_observed(noise(gap)))
    return x + pinv_above(operator, gap, sigma, sigma_y)
