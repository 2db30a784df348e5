"""Langevin dynamics, at one noise level and down a ladder of them.

    x ← x + α/2·s(x, σ) + √α·z          (Song & Ermon 2019, eq. 4, "paper")
    x ← x + α·s(x, σ) + √(2α)·z         (their code for images, "official")

Both are the same chain with α counted differently: the same number is twice the step in the
"official" convention, which made the paper's images and is the default here.

Underdamped Langevin dynamics gives x a velocity v ~ N(0, I), which it keeps a share of:

    dx = v dt,   dv = s(x, σ) dt − γv dt + √(2γ) dw
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise, Samples
from ..score import Score
from .state import State, States, sampler

Convention = Literal["official", "paper"]
Kernel: TypeAlias = Callable[..., States]
"""Steps at one σ: a sampler of (score, x, sigma, *, alpha, steps, noise), such as `langevin`."""


def drift_factor(convention: Convention, size: float) -> float:
    """Return the factor α of the score; the factor of the noise is √(2α) in both conventions."""
    return size if convention == "official" else size / 2


def _check_eta(sigmas: Tensor, eta: float | None, **others: Any) -> None:
    least = max((1 - low / high for high, low in pairwise(sigmas.tolist())), default=0.0)
    if eta is not None and not least <= eta <= 1:
        raise ValueError(f"eta={eta}: on this ladder from {least:.4g} (no new noise) to 1")


@sampler()
def langevin(
    score: Score,
    x: Samples,
    sigma: float,
    *,
    alpha: float,
    steps: int = 100,
    convention: Convention = "official",
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Run Langevin dynamics at one σ, whose stationary distribution tends to q_σ as α → 0.

        x ← x + α·s(x, σ) + √(2α)·z

    With `sigma=0`, the score is that of the data itself. `alpha` is the step size α.
    """
    alpha = drift_factor(convention, alpha)
    for _ in range(steps):
        s = score(x, sigma)
        denoised = x + sigma**2 * s
        x = x + alpha * s + math.sqrt(2 * alpha) * noise(x)
        yield State(x, sigma, denoised)


@sampler()
def underdamped(
    score: Score,
    x: Samples,
    sigma: float,
    *,
    alpha: float,
    steps: int = 100,
    momentum: float = 0.5,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Run underdamped Langevin dynamics at one σ (BAOAB; Leimkuhler & Matthews 2013).

    A step lasts h = √(2α), and `momentum` m is e^(−γh), the share of the velocity that it keeps. At
    m = 0 the score moves x as far as in `langevin`, above it (1 + m)/(1 − m) times as far. The
    variance of a Gaussian is exact at any step below the limit of stability, which is that of
    `langevin`.
    """
    h, v = math.sqrt(2 * alpha), noise(x)
    for i in range(steps):
        s = score(x, sigma)
        denoised = x + sigma**2 * s
        v = v + (h if i > 0 else h / 2) * s  # the last half of a step and the first of the next
        half = x + h / 2 * v
        v = momentum * v + math.sqrt(1 - momentum**2) * noise(x)
        x = half + h / 2 * v
        yield State(x, sigma, denoised)


@sampler()
def annealed_langevin(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    kernel: Kernel = langevin,
    steps: int = 100,
    epsilon: float = 2e-5,
    convention: Convention = "official",
    denoise: bool = False,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Run annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1).

        x ← x + α·s(x, σ) + √(2α)·z,   α = ε·σ²/σ_L²

    The chains start at x, a `Prior`'s sample or, as in the official code, `uniform_like`. They take
    `steps` T at each level of the ladder σ₁ … σ_L, with the step size `epsilon` ε at σ_L. The
    paper's 2e-5 belongs to a ladder that ends at 0.01; `suggest` chooses one for any other ladder.
    A step is stable for ε below 2σ_L² ("official") or 4σ_L² ("paper"). With `denoise` they end with
    x + σ_L²·s(x, σ_L) (Song & Ermon 2020, Algorithm 1). Another `kernel`, such as `underdamped`,
    takes the same number of steps of the same size at each level.
    """
    levels = sigmas.tolist()
    for sigma in levels:
        alpha = drift_factor(convention, epsilon) * (sigma / levels[-1]) ** 2
        x = yield from kernel(score, x, sigma, alpha=alpha, steps=steps, noise=noise)


@sampler(_check_eta)
def consistent(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    eta: float | None = None,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Run consistent annealed sampling (Jolicoeur-Martineau et al. 2021, §3).

    There is one Langevin step a level, x + ησ²s + βσ'z, where β makes the rest of the old noise
    and the new noise add up to σ': β² = 1 − ((1−η)/γ)², γ = σ'/σ. Euler's step has η = 1 − γ, the
    ancestral one η = 1 − γ². The paper tunes `eta` (η = ε/σ_L², at least 1 − γ at every level) for
    each model; the default is halfway between these two, at each level. η = 1 keeps nothing of x
    but D = x + σ²s: that is multistep consistency sampling (Song et al. 2023, Algorithm 1).
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        gamma = sigma_next / sigma
        e = (1 - gamma) * (1 + gamma / 2) if eta is None else eta
        beta = math.sqrt(max(1 - ((1 - e) / gamma) ** 2, 0.0))
        s = score(x, sigma)
        denoised = x + sigma**2 * s
        x = x + e * sigma**2 * s + beta * sigma_next * noise(x)
        yield State(x, sigma_next, denoised)
