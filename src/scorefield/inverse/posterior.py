"""Samplers of what may have been measured, over any score.

    algorithm2        Langevin dynamics, known pixels overwritten (Song & Ermon 2019, Algorithm 2)
    particle_filter   reverse diffusions that compete in foreseeing a noisy y

The second is exact for many particles and small steps. If x_σ = x₀ + σz, then A·x_σ is y with more
noise as long as σ²AAᵀ is more than σ_y²; so one path y_σ of it can be drawn, upwards from y, and
without knowing x₀. Downwards, at each step from σ to σ',

    log w = log N(y_σ' | A(x + hs), h·AAᵀ),   h = σ² − σ'²    how well a particle foresees y_σ'
    x     ← the reverse diffusion of the particles drawn by w, given that A·x' = y_σ'

(Trippe et al. 2023, Algorithm 2, for a mask; Dou & Song 2024 and Cardoso et al. 2024 for others.)
A direction of y is done with when σ'² times its eigenvalue passes below σ_y².
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.special import ndtr

from .._ops import Noise
from ..noise import perturb
from ..samplers import State, States
from ..samplers.langevin import Convention, _drift
from ..samplers.state import check, check_steps, without_gradients
from ..score import Score
from .operators import LinearOperator, mask, measured


def algorithm2(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    known: Tensor,
    y: Tensor,
    steps: int = 100,
    epsilon: float = 2e-5,
    convention: Convention = "official",
    noise: Noise = torch.randn_like,
) -> States:
    """Inpainting by annealed Langevin dynamics (Song & Ermon 2019, Algorithm 2).

    At each level z is drawn once, and after each step the known pixels are y + σ_i·z. They end
    with the noise of σ_L: `mask(known).project(x, y)` makes them y.

    Args:
        score: any score.
        x: where the chains start.
        sigmas: decreasing ladder σ₁ … σ_L.
        known: m, 1 where y holds.
        y: an image, in the shape of x or broadcasting to it.
        steps: T, at each level.
        epsilon: ε, the step size at σ_L; see `annealed_langevin`.
        convention: how ε is counted; the paper's text has "paper", its images "official".
        noise: source of z.
    """
    score, levels = check(score, x, sigmas)
    measured(mask(known), y, 0.0)
    y, known = y.to(x).expand_as(x), known.to(x.device).bool().expand(x.shape[1:])
    drift = _drift(convention, "epsilon", epsilon, steps)
    return _algorithm2(score, x, levels, known, y, drift, steps, noise)


@without_gradients
def _algorithm2(
    score: Score,
    x: Tensor,
    levels: list[float],
    known: Tensor,
    y: Tensor,
    epsilon: float,
    steps: int,
    noise: Noise,
) -> States:
    for i, sigma in enumerate(levels):
        alpha = epsilon * (sigma / levels[-1]) ** 2
        noisy = perturb(y, sigma, noise(x))
        for step in range(i * steps + 1, (i + 1) * steps + 1):
            s = score(x, sigma)
            denoised = x.add(s, alpha=sigma**2)
            x = x.add(s, alpha=alpha).add(noise(x), alpha=math.sqrt(2 * alpha))
            x = torch.where(known, noisy, x)
            yield State(x, sigma, denoised, step)
    return x


def particle_filter(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    sigma_y: float = 0.0,
    each: int | None = None,
    noise: Noise = torch.randn_like,
) -> States:
    """Draws from p(x | y), exact for many particles and a fine grid from high to low.

    The particles of one filter are no independent draws: of few of them many may descend from one,
    and all follow one noisy path of y, on which a part of the error depends. Filters of their own
    (`each`) share neither. Two evaluations a step; the last state is x₀, on which a noiseless y is
    imposed.

    Args:
        score: any score.
        x: a sample of q at sigmas[0], such as a prior's. There y must tell little of the rest.
        sigmas: decreasing grid.
        operator: A.
        y: the measurement, a batch of one or one for each particle.
        sigma_y: its noise.
        each: how many, one after another and of one y, make a filter; all of equal y if not given.
        noise: source of noise.
    """
    score, levels = check_steps(score, x, sigmas, True)
    measured(operator, y, sigma_y)
    if len(y) not in (1, len(x)):
        raise ValueError(
            f"y has {len(y)} rows beside {len(x)} particles: give one, or one for each"
        )
    y = y.to(x) if operator.known is None else operator(y.to(x))  # what is unknown may be NaN
    return _particle_filter(score, x, levels, operator, *_filters(x, y, each), sigma_y, noise)


@without_gradients
def _particle_filter(
    score: Score,
    x: Tensor,
    levels: list[float],
    operator: LinearOperator,
    y: Tensor,
    groups: Tensor,
    sigma_y: float,
    noise: Noise,
) -> States:
    path = _path(operator, y, levels, sigma_y, noise)
    x = _begin(operator, score, x, path[0][groups], levels[0], sigma_y)
    log_w = x.new_zeros(len(x))
    for i, (sigma, low) in enumerate(pairwise(levels), 1):
        step, aim = _Step(operator, sigma, low, sigma_y), path[i][groups]
        s = score(x, sigma)
        log_w = log_w + step.log_weight(x, s, aim)
        chosen, log_w = _survivors(log_w, groups, noise, least=0.5 if i < len(levels) - 1 else 1)
        x, s = x[chosen], s[chosen]
        denoised = x.add(s, alpha=sigma**2)
        ahead = step.meet(x, x.add(s, alpha=step.h).add(noise(x), alpha=step.h**0.5), aim, noise)
        # of the noise √h there is √h left for a flat law and √h·σ'/σ for a point: the second score,
        # which is the first on average, sees to that, and to the second order to what is between
        turn = step.off(score(ahead, low) - s)
        x = ahead.add(turn, alpha=low**2 * (1 - low / sigma))
        yield State(x, low, denoised, i)
    x = x.add(score(x, levels[-1]), alpha=levels[-1] ** 2)
    x = operator.project(x, y[groups]) if sigma_y == 0 else x
    yield State(x, 0.0, x, len(levels))
    return x


def _filters(
    x: Tensor, y: Tensor, each: int | None
) -> tuple[Float[Tensor, "filters *measured"], Int[Tensor, "batch"]]:
    """The y of each filter, and which one each particle belongs to."""
    if each is None:
        distinct, groups = torch.unique(y, dim=0, return_inverse=True)
        return distinct, groups.expand(len(x))
    if each < 1 or len(x) % each:
        raise ValueError(f"each={each}: give a whole number that divides {len(x)}, the particles")
    y = y.expand(len(x), *y.shape[1:])
    if not torch.equal(y, y[::each].repeat_interleave(each, 0)):
        raise ValueError(f"each={each}: the particles of one filter must have one y")
    return y[::each], torch.arange(len(x), device=x.device) // each


def _path(
    operator: LinearOperator, y: Tensor, levels: list[float], sigma_y: float, noise: Noise
) -> list[Tensor]:
    """y_σ at each level: y, with what σ²AAᵀ has more of noise than σ_y²."""
    path, below = [y], 0.0
    for sigma in reversed(levels):

        def fresh(values: Tensor, low: float = below, high: float = sigma) -> Tensor:
            more, less = (values * each**2 - sigma_y**2 for each in (high, low))
            return (more.clamp(min=0) - less.clamp(min=0)).sqrt()

        path.append(path[-1] + operator.gram(fresh, noise(y)))
        below = sigma
    return path[:0:-1]


def _begin(
    operator: LinearOperator, score: Score, x: Tensor, aim: Tensor, sigma: float, sigma_y: float
) -> Tensor:
    """A sample of q at a high σ moved to where A·x = y_σ."""

    def meet(x: Tensor) -> Tensor:
        gap = operator.gram(
            lambda values: _where(values * sigma**2 > sigma_y**2, values), aim - operator(x)
        )
        return x + operator.adjoint(gap)

    # to the first order in Σ/σ², the rest follows as a Gaussian does given a part of it
    there = meet(x)
    return meet(there.add(score(there, sigma) - score(x, sigma), alpha=sigma**2))


def _where(kept: Tensor, values: Tensor) -> Tensor:
    """1/values where they are kept, else 0."""
    return torch.where(kept & (values > 0), 1 / values, 0)


@dataclass(frozen=True)
class _Step:
    """From σ to σ', given y_σ' where y is noisier than σ', and y itself where it ceases to be.

    There y lies on the way, at a share t of h before σ'.
    """

    operator: LinearOperator
    sigma: float
    low: float
    sigma_y: float

    @property
    def h(self) -> float:
        """σ² − σ'²."""
        return self.sigma**2 - self.low**2

    def _left(self, values: Tensor) -> Tensor:
        """t for each eigenvalue of AAᵀ; 1 where y tells nothing."""
        share = (self.sigma_y**2 / values - self.low**2) / self.h
        return torch.where(values > 0, share, 1).clamp(0, 1)

    def _gain(self, gap: Tensor) -> Tensor:
        return self.operator.adjoint(
            self.operator.gram(lambda values: _where(self._left(values) < 1, values), gap)
        )

    def log_weight(self, x: Tensor, s: Tensor, aim: Tensor) -> Float[Tensor, "batch"]:
        """How well x foresees its aim, but for what all share."""
        gram = self.operator.gram
        ahead = gram(lambda values: self.h * (1 - self._left(values)), self.operator(s))
        gap = aim - self.operator(x) - ahead

        def precision(values: Tensor) -> Tensor:
            left = self._left(values)
            return _where(left < 1, values * self.h * (1 - left) * (self.low / self.sigma))

        return -0.5 * (gap * gram(precision, gap)).flatten(1).sum(1)

    def meet(self, x: Tensor, ahead: Tensor, aim: Tensor, noise: Noise) -> Tensor:
        """A draw of x at σ' moved to agree with its aim (Matheron's rule)."""
        gram, there = self.operator.gram, self.operator(ahead)
        seen = there + gram(self._left, self.operator(x) - there)
        if self.sigma_y > 0:

            def bridge(values: Tensor) -> Tensor:
                left = self._left(values)
                return (values * self.h * left * (1 - left)).sqrt()

            seen = seen + gram(bridge, noise(seen))
        return ahead + self._gain(aim - seen)

    def off(self, v: Tensor) -> Tensor:
        """The part of v of which y tells nothing."""
        return v - self._gain(self.operator(v))


def _survivors(
    log_w: Tensor, groups: Tensor, noise: Noise, least: float
) -> tuple[Int[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Who goes on in the place of each, and with which weight.

    A group whose effective size is below `least` of it is drawn anew (systematic resampling): not
    sooner, for each drawing loses some that were as good.
    """
    chosen, kept = torch.arange(len(log_w), device=log_w.device), log_w.clone()
    uniform = ndtr(noise(log_w)).double()
    for group in range(int(groups.max()) + 1):
        rows = (groups == group).nonzero().squeeze(1)
        w = log_w[rows].double().softmax(0)
        if 1 / w.square().sum() < least * len(rows):
            total = w.cumsum(0)
            places = torch.arange(len(rows), device=rows.device) + uniform[rows[0]]
            drawn = torch.searchsorted(total, places * total[-1] / len(rows), right=True)
            chosen[rows], kept[rows] = rows[drawn.clamp(max=len(rows) - 1)], 0.0
    return chosen, kept
