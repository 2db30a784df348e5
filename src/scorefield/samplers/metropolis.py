"""Chains with the right stationary distribution at any step, by accepting or rejecting proposals.

Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011) gives x a momentum p ~ N(0, I), follows

    dx = p dt,   dp = s(x, σ) dt          H = −log q_σ(x) + ‖p‖²/2 is constant

and accepts the end with probability min(1, e^(−ΔH)), where ΔH is the error of the integrator. With
one step it is the Metropolis-adjusted Langevin algorithm (Roberts & Tweedie 1996).
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr

from .._ops import Noise, Samples, check_returned, sq_norm
from ..score import Score
from .state import State, sampler


def log_density(score: Score, x: Tensor, sigma: float) -> Float[Tensor, "batch"]:
    """Return log q_σ(x) up to a constant, by the score's `log_prob`, in float32 at least."""
    log_p: Tensor = score.log_prob(x, sigma)  # type: ignore[attr-defined]
    check_returned(log_p, x, "score.log_prob", per_sample=True)
    return log_p.to(torch.promote_types(log_p.dtype, torch.float32))


def check_density(score: Score, x: Tensor, **others: Any) -> None:
    """Raise unless a score has a log-density, and x the digits to compare log-densities."""
    if getattr(score, "log_prob", None) is None:
        raise TypeError(
            "score has no log_prob, by which proposals are accepted: give an oracle or "
            "from_energy(energy), or set score.log_prob to a log-density for each (x, sigma)"
        )
    if x.element_size() < 4:
        raise TypeError(f"x is {x.dtype}, too coarse to decide on proposals by: give x.float()")


def leapfrog(
    score: Score, x: Tensor, p: Tensor, s: Tensor, sigma: float, h: float, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Take n leapfrog steps of length h from x with the momentum p and the score s at x."""
    for _ in range(n):
        p = p + h / 2 * s
        x = x + h * p
        s = score(x, sigma)
        p = p + h / 2 * s
    return x, p, s


@sampler(check_density)
def hmc(
    score: Score,
    x: Samples,
    sigma: float,
    *,
    alpha: float,
    leapfrogs: int = 10,
    steps: int = 100,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Run Hamiltonian Monte Carlo at one σ, whose stationary distribution is that of `log_prob`.

    The score must have a method `log_prob(x, sigma)`, and x 32 bits or more. A step
    follows `leapfrogs` steps of length h = √(2α), so that one of them moves x as far as `langevin`
    does, and evaluates the score that many times. `State.accepted` has the chains that moved; where
    only few do, lower `alpha`.
    """
    h = math.sqrt(2 * alpha)
    s, log_p = score(x, sigma), log_density(score, x, sigma)
    for _ in range(steps):
        p = noise(x)
        x_new, p_new, s_new = leapfrog(score, x, p, s, sigma, h, leapfrogs)
        log_p_new = log_density(score, x_new, sigma)
        gain = log_p_new - log_p - (sq_norm(p_new) - sq_norm(p)) / 2
        accepted = ndtr(noise(gain)) < gain.exp()  # of u uniform on [0, 1]; NaN is rejected
        moved = accepted.view(-1, *[1] * (x.ndim - 1))
        x, s = torch.where(moved, x_new, x), torch.where(moved, s_new, s)
        log_p = torch.where(accepted, log_p_new, log_p)
        yield State(x, sigma, x + sigma**2 * s, accepted=accepted)


mala = partial(hmc, leapfrogs=1)
"""The Metropolis-adjusted Langevin algorithm: `hmc` with one leapfrog step.

A step proposes what `langevin` does, x + α·s(x, σ) + √(2α)·z.
"""
