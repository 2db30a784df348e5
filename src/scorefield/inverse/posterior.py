"""Samplers of the posterior p(x | y) of a measurement, over any score.

    algorithm2        Langevin dynamics with overwritten known pixels (Song & Ermon 2019, Alg. 2)
    particle_filter   reverse diffusions, weighted by how well they predict a noisy y

The second is exact for many particles and small steps. If x_σ = x₀ + σz, then A·x_σ is y with more
noise as long as σ²AAᵀ exceeds σ_y². So one path y_σ of it can be sampled upwards from y, without
knowing x₀. Downwards, the particles are weighted and moved at each step from σ to σ' (Trippe et al.
2023, Algorithm 2, for a mask; Dou & Song 2024 and Cardoso et al. 2024 for others). A direction of y
ends when σ'² times its eigenvalue falls below σ_y².
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.special import ndtr

from .._ops import Noise, Samples, widest
from ..noise import perturb
from ..samplers import State
from ..samplers.langevin import Convention, drift_factor
from ..samplers.state import sampler
from ..score import Score
from .operators import LinearOperator, check_measurement, mask
from .split import check_observation


def _check_mask(x: Tensor, observed: Tensor, y: Tensor, **others: Any) -> None:
    check_measurement(mask(observed), y, 0.0)
    mask(observed).gap(y, x)


def check_filters(
    x: Tensor,
    operator: LinearOperator,
    y: Tensor,
    sigma_y: float,
    filter_size: int | None,
    **others: Any,
) -> None:
    """Raise unless y is a measurement of particles x, and the same in each filter."""
    check_observation(x, operator, y, sigma_y)
    if filter_size is None:
        return
    check_filter_size(filter_size, len(x))
    rows = operator.keep_observed(y.to(x)).expand(len(x), *y.shape[1:])
    if not torch.equal(rows, rows[::filter_size].repeat_interleave(filter_size, 0)):
        raise ValueError(f"filter_size={filter_size}: the particles of a filter must have one y")


def check_filter_size(filter_size: int, particles: int) -> None:
    """Raise unless the particles make filters of that size."""
    if filter_size < 1 or filter_size % 1 or particles % filter_size:
        raise ValueError(f"filter_size={filter_size}: give a number that divides {particles}")


@sampler(_check_mask)
def algorithm2(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    observed: Tensor,
    y: Tensor,
    steps: int = 100,
    epsilon: float = 2e-5,
    convention: Convention = "official",
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Inpainting by annealed Langevin dynamics (Song & Ermon 2019, Algorithm 2).

        x ← x + α·s + √(2α)·n,   then   x ← m ⊙ (y + σ_i·z) + (1 − m) ⊙ x

    The mask m, `observed`, is 1 where y is known. y has the shape of a sample, for all, or of x,
    and the mask broadcasts to it. z is sampled once a level, n in each step. The observed pixels
    end with the noise of σ_L: `mask(observed).project(x, y)` makes them y. For the rest see
    `annealed_langevin`; the paper's text has the convention "paper", its images "official".
    """
    levels, y, observed = sigmas.tolist(), y.to(x).expand_as(x), observed.to(x.device).bool()
    for sigma in levels:
        alpha = drift_factor(convention, epsilon) * (sigma / levels[-1]) ** 2
        noisy = perturb(y, sigma, noise(x))
        for _ in range(steps):
            s = score(x, sigma)
            denoised = x + sigma**2 * s
            x = x + alpha * s + math.sqrt(2 * alpha) * noise(x)
            x = torch.where(observed, noisy, x)
            yield State(x, sigma, denoised)


@sampler(check_filters)
def particle_filter(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    sigma_y: float = 0.0,
    filter_size: int | None = None,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Sample from p(x | y), exactly for many particles and a fine grid from high to low.

        log w = log N(y_σ' | A(x + h·s), h·σ'/σ·AAᵀ),   h = σ² − σ'²
        x'    ~ the reverse diffusion of particles resampled by w, conditioned on A·x' = y_σ'

    x is a sample of q at sigmas[0], such as a prior's, where y (one row, or one for each particle)
    must say little about the rest. `sigma_y` is the deviation of y's noise.

    Each `filter_size` consecutive particles, all with one y, make a filter; by default, particles
    with equal y do. The particles of one filter are not independent: several may descend from one,
    and all follow one noisy path of y, on which a part of the error depends. Separate filters share
    neither. Two evaluations a step; the last state is x₀, with a noiseless y imposed on it.
    """
    levels, filters = (
        sigmas.tolist(),
        group_particles(x, operator.keep_observed(y.to(x)), filter_size),
    )
    path = _noisy_path(operator, filters.y, levels, sigma_y, noise)
    x = _start_particles(operator, score, x, path[0][filters.of], levels[0], sigma_y)
    log_w = x.new_zeros(len(x))
    for i, (sigma, low) in enumerate(pairwise(levels), 1):
        step, target = _FilterStep(operator, sigma, low, sigma_y), path[i][filters.of]
        s = score(x, sigma)
        log_w = log_w + step.log_weight(x, s, target)
        threshold = 1 if i == len(levels) - 1 else 0.5
        parents, log_w = choose_parents(log_w, filters, noise, threshold)
        x, s = x[parents], s[parents]
        denoised = x + sigma**2 * s
        ahead = step.condition(x, x + step.h * s + step.h**0.5 * noise(x), target, noise)
        # of the noise √h, a flat density keeps √h and a point √h·σ'/σ: the second score, whose
        # mean is the first, makes this exact for both, and second order between them
        turn = score(ahead, low) - s
        turn = turn - pinv_above(operator, operator(turn), sigma, sigma_y)  # where y says nothing
        x = ahead + low**2 * (1 - low / sigma) * turn
        yield State(x, low, denoised)
    x = x + levels[-1] ** 2 * score(x, levels[-1])
    x = operator.project(x, filters.y[filters.of]) if sigma_y == 0 else x
    yield State(x, 0.0, x)


class Filters(NamedTuple):
    """Filters of particles, which may differ in size."""

    y: Float[Tensor, "filters *measured"]
    particles: Int[Tensor, "filters largest"]  # a row each, with −1 after the last one
    of: Int[Tensor, "batch"]  # the filter of each particle
    place: Int[Tensor, "batch"]  # its place in the row


def group_particles(x: Tensor, y: Tensor, filter_size: int | None) -> Filters:
    """Group particles by `filter_size`, or by equal y."""
    particles = torch.arange(len(x), device=x.device)
    if filter_size is None:
        y, of = torch.unique(y, dim=0, return_inverse=True)
        of = of.expand(len(x))
    else:
        y, of = y.expand(len(x), *y.shape[1:])[::filter_size], particles // filter_size
    size, order = of.bincount(), of.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = particles - (size.cumsum(0) - size)[of[order]]
    rows = particles.new_full((len(size), int(size.max())), -1)
    rows[of, place] = particles
    return Filters(y, rows, of, place)


def _noisy_path(
    operator: LinearOperator, y: Tensor, levels: list[float], sigma_y: float, noise: Noise
) -> list[Tensor]:
    """Return y_σ at each level: y with the noise by which σ²AAᵀ exceeds σ_y²."""

    def excess(values: Tensor, sigma: float) -> Tensor:
        return (values * sigma**2 - sigma_y**2).clamp(min=0)

    path = [y]
    for low, high in pairwise([0.0, *reversed(levels)]):

        def deviation(values: Tensor, low: float = low, high: float = high) -> Tensor:
            return (excess(values, high) - excess(values, low)).sqrt()

        path.append(path[-1] + operator.gram(deviation, noise(y)))
    return path[:0:-1]


def _start_particles(
    operator: LinearOperator, score: Score, x: Tensor, target: Tensor, sigma: float, sigma_y: float
) -> Tensor:
    """Move a sample of q at a high σ to where A·x = y_σ."""

    def meet(x: Tensor) -> Tensor:
        return x + pinv_above(operator, target - operator(x), sigma, sigma_y)

    # to first order in Σ/σ², the rest follows as a Gaussian conditioned on a part of it
    start = meet(x)
    return meet(start + sigma**2 * (score(start, sigma) - score(x, sigma)))


def pinv_above(operator: LinearOperator, gap: Tensor, sigma: float, sigma_y: float) -> Tensor:
    """Return A⁺·gap, but 0 in the directions where σ²AAᵀ does not exceed σ_y²."""

    def inverse(values: Tensor) -> Tensor:
        return torch.where(values * sigma**2 > sigma_y**2, 1 / values, 0)

    return operator.adjoint(operator.gram(inverse, gap))


@dataclass(frozen=True)
class _FilterStep:
    """A step from σ to σ', conditioned on y_σ' where y is noisier than σ', else on y itself.

    In a direction where y's noise level lies between the two, y is met at a share t of h before σ'.
    """

    operator: LinearOperator
    sigma: float
    low: float
    sigma_y: float

    @property
    def h(self) -> float:
        """σ² − σ'²."""
        return self.sigma**2 - self.low**2

    def _share(self, values: Tensor) -> Tensor:
        """Return t for each eigenvalue of AAᵀ; 1 where y has no information."""
        share = (self.sigma_y**2 / values - self.low**2) / self.h
        return torch.where(values > 0, share, 1).clamp(0, 1)

    def log_weight(self, x: Tensor, s: Tensor, target: Tensor) -> Float[Tensor, "batch"]:
        """Return how well x predicts its target, up to a constant."""

        def length(values: Tensor) -> Tensor:
            return self.h * (1 - self._share(values))

        def precision(values: Tensor) -> Tensor:
            # between h of a flat density and hσ'²/σ² of a point
            variance = values * length(values) * (self.low / self.sigma)
            return torch.where(variance > 0, 1 / variance, 0)

        gram = self.operator.gram
        gap = target - self.operator(x) - gram(length, self.operator(s))
        return -0.5 * (gap * gram(precision, gap)).flatten(1).sum(1)

    def condition(self, x: Tensor, ahead: Tensor, target: Tensor, noise: Noise) -> Tensor:
        """Move a sample of x at σ' to agree with its target (Matheron's rule)."""
        gram, y_ahead = self.operator.gram, self.operator(ahead)

        def bridge(values: Tensor) -> Tensor:
            t = self._share(values)
            return (values * self.h * t * (1 - t)).sqrt()

        y = y_ahead + gram(self._share, self.operator(x) - y_ahead)
        y = y + gram(bridge, noise(y)) if self.sigma_y > 0 else y
        return ahead + pinv_above(self.operator, target - y, self.sigma, self.sigma_y)


def choose_parents(
    log_w: Tensor, filters: Filters, noise: Noise, threshold: float
) -> tuple[Int[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the parent of each particle, and the new log-weights."""
    rows = filters.particles
    uniform = ndtr(noise(log_w)).to(widest(log_w.device))[rows[:, :1]]
    log_w = log_w[rows].masked_fill(rows < 0, -math.inf)
    parents, lost = resample(log_w, uniform, threshold, (rows >= 0).sum(1, keepdim=True))
    at = filters.of, filters.place
    return rows.gather(1, parents)[at], log_w.masked_fill(lost, 0)[at]


def resample(
    log_w: Float[Tensor, "filters largest"],
    uniform: Float[Tensor, "filters 1"],
    threshold: float,
    size: Int[Tensor, "filters 1"] | None = None,
) -> tuple[Int[Tensor, "filters largest"], Bool[Tensor, "filters 1"]]:
    """Return each particle's parent in its filter, and which filters are resampled (systematic).

    A filter is resampled only if its effective size is below `threshold` times its size, because
    each resampling loses some particles that were as good. The device decides, nobody waits for it.
    """
    w, place = log_w.to(uniform).softmax(1), torch.arange(log_w.shape[1], device=log_w.device)
    size = (place[-1:] + 1).expand(len(w), 1) if size is None else size
    lost, total = 1 / w.square().sum(1, keepdim=True) < threshold * size, w.cumsum(1)
    # turned at random, so that each place, and not only all together, has parents by weight
    turned = (place + size * uniform) % size
    picks = torch.searchsorted(total, turned * total[:, -1:] / size, right=True)
    return torch.where(lost, picks.minimum(size - 1), place), lost
