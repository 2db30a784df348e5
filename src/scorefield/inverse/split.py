"""Samplers that alternate between the prior's denoiser and the measurement y = Ax + σ_y·n.

    x̂ from x_σ by the score,   z from N(x̂, r²I) given y, in closed form,   x_σ' = z + noise

    diffpir       x̂ = D(x_σ), r² = σ²/λ, z the most probable point       (Zhu et al. 2023, Alg. 1)
    daps          x̂ the end of the ODE, r = σ, z a sample                (Zhang et al. 2024, Alg. 1)
    split_gibbs   x̂ ~ p(x₀ | x_σ), then x_σ' ~ N(x̂, σ'²I) given y        (Wu et al. 2024, Alg. 1)

The first two take p(x₀ | x_σ) for a ball. The last is a Gibbs sampler of x₀ and u = x₀ + ρz, with
ρ = σ, where y measures u. If ρ²AAᵀ ≤ σ_y², a part of y's noise is Aρz: y = Au + a noise of
σ_y²I − ρ²AAᵀ gives x₀ its exact posterior, so ρ stops at the largest one. Above it, y counts as Au,
and measures x₀ with noise of ρ²AAᵀ.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise
from ..samplers import State, euler
from ..samplers.state import sampler
from ..score import Score
from .operators import LinearOperator, check_measurement

LOWEST_SHARE = 0.35
"""Last σ of a Gibbs step's reverse diffusion of 2 steps, over its first; x₀ keeps its noise."""


def check_observation(
    x: Tensor, operator: LinearOperator, y: Tensor, sigma_y: float, **others: Any
) -> None:
    """Raise unless y is a measurement of samples x."""
    check_measurement(operator, y, sigma_y)
    operator.gap(y, x)


@sampler(check_observation)
def diffpir(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    sigma_y: float = 0.0,
    strength: float = 1.0,
    zeta: float = 0.3,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Sample by plug-and-play restoration, with one evaluation a level and no gradient.

        z = argmin ‖y − Az‖²/σ_y² + λ‖z − D‖²/σ²,   x' = z + σ'·(√(1 − ζ)·(x − z)/σ + √ζ·n)

    `strength` is λ. A share `zeta` of the variance of x_σ' is new noise, the rest is that of x_σ.
    The paper tunes both for each task.
    """
    y = y.to(x)
    for sigma, low in pairwise([*sigmas.tolist(), 0.0]):
        denoised = x + sigma**2 * score(x, sigma)
        z = _condition(operator, y, sigma_y, denoised, sigma / strength**0.5, torch.zeros_like)
        old, new = math.sqrt(1 - zeta) / sigma, math.sqrt(zeta)
        x = z + low * (old * (x - z) + new * noise(x))
        yield State(x, low, denoised)


@sampler(check_observation)
def daps(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    sigma_y: float = 0.0,
    inner: int = 4,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Sample by decoupled annealing: the noise of each level is independent of the last one's.

        x̂ = the end of the ODE from x,   z ~ N(x̂, σ²I) given y,   x' = z + σ'·n

    The ODE takes `inner` of Euler's steps from each level to the last one, and denoises: inner + 1
    evaluations. z is exact, where the paper takes Langevin steps.
    """
    y, levels = y.to(x), sigmas.tolist()
    for sigma, low in pairwise([*levels, 0.0]):
        clean = x
        for high, end in pairwise(_between(sigma, levels[-1], inner)):
            clean, _ = euler(score, clean, high, end, noise)
        clean = clean + levels[-1] ** 2 * score(clean, levels[-1])
        x = _condition(operator, y, sigma_y, clean, sigma, noise)
        x = x + low * noise(x) if low > 0 else x
        yield State(x, low, clean)


@sampler(check_observation)
def split_gibbs(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    sigma_y: float = 0.0,
    inner: int = 2,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Sample by Gibbs steps at falling ρ, exactly for many levels and inner steps.

        x̂ ~ p(x₀ | x₀ + ρz = x),   x' ~ N(x̂, ρ'²I) given y

    Each level takes 2·inner + 1 evaluations: a reverse diffusion of `inner` steps from ρ, and the
    denoiser. More steps are finer and end lower. x is a sample of q at sigmas[0], where y must say
    little. With noise, a ρ below the largest exact one is raised to it, at most to sigmas[0]. Modes
    mix at a high ρ only, so that their weights depend on the number of levels there. The last
    reverse diffusion goes down to the last level; the last state is x₀, with a noiseless y imposed
    on it.
    """
    y, levels = y.to(x), sigmas.tolist()
    share = LOWEST_SHARE ** (inner / 2) ** 0.5
    least = sigma_y / _largest_eigenvalue(operator, y) ** 0.5 if sigma_y > 0 else 0.0
    least = min(least, levels[0])
    rhos = [levels[0], *(max(sigma, least) for sigma in levels[1:])]
    for rho, following in pairwise(rhos):
        low = max(share * rho, levels[-1])
        clean = _sample_clean(score, x, rho, low, inner, noise)
        clean = clean + low * noise(clean)  # else it would have less spread, level by level
        x = _condition(operator, y, sigma_y, clean, following, noise, shared=True)
        yield State(x, following, clean)
    steps = math.ceil(inner * math.log(levels[-1] / rhos[-1]) / math.log(share))
    clean = _sample_clean(score, x, rhos[-1], levels[-1], steps, noise)
    x = operator.project(clean, y) if sigma_y == 0 else clean
    yield State(x, 0.0, x)


def _condition(
    operator: LinearOperator,
    y: Tensor,
    sigma_y: float,
    x: Tensor,
    r: float,
    noise: Noise,
    *,
    shared: bool = False,
) -> Tensor:
    """Sample N(x, r²I) given y (Matheron's rule); with noise of zeros, return the mean.

    If `shared`, y has only the noise by which σ_y² exceeds r²AAᵀ.
    """

    def variance(values: Tensor) -> Tensor:
        own = r**2 * values
        return own.clamp(min=sigma_y**2) if shared else own + sigma_y**2

    def gain(values: Tensor) -> Tensor:
        return torch.where(values > 0, r**2 / variance(values), 0)

    x = x + r * noise(x)
    gap = operator.keep_observed(operator.gap(y, x))
    if sigma_y > 0:
        z = operator.keep_observed(noise(gap))
        gap = gap - operator.gram(lambda v: (variance(v) - r**2 * v).clamp(min=0).sqrt(), z)
    return x + operator.adjoint(operator.gram(gain, gap))


def _sample_clean(
    score: Score, x: Tensor, sigma: float, low: float, steps: int, noise: Noise
) -> Tensor:
    """Sample p(x₀ | x_σ) by the reverse diffusion, with the second-order steps of the filter."""
    for high, end in pairwise(_between(sigma, low, steps)):
        s, h = score(x, high), high**2 - end**2
        ahead = x + h * s + h**0.5 * noise(x)
        x = ahead + end**2 * (1 - end / high) * (score(ahead, end) - s)
    return x + low**2 * score(x, low)


def _between(sigma: float, low: float, steps: int) -> list[float]:
    """Return the ends of steps of equal ratio from σ to a lower one; the same σ needs no step."""
    if sigma == low:
        return [low]
    return [sigma * (low / sigma) ** (i / steps) for i in range(steps)] + [low]


def _largest_eigenvalue(operator: LinearOperator, y: Tensor) -> float:
    """Return the largest eigenvalue of AAᵀ."""
    largest = []

    def look(values: Tensor) -> Tensor:
        largest.append(values.max())
        return values

    operator.gram(look, y[:1])
    return largest[0].item()
