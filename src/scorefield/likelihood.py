"""Log-densities by the probability-flow ODE (Chen et al. 2018; Song et al. 2021, eq. 39).

Along dx/dσ = −σ·s(x, σ) the density of a moving sample changes by the divergence of the flow:

    log q_σmin(x) = log N(x(σ_max) | prior) − ∫ σ·tr ∇ₓs(x(σ), σ) dσ,   σ from σ_min to σ_max

The trace is exact, or Hutchinson's mean of vᵀ(∇ₓs)v over random v, which costs less in many
dimensions and is unbiased. The result is the density of the data with noise σ_min, not of the data.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._ops import Noise, Samples, check_batch, check_returned, linearize, match, trace, widest
from .noise import check_ends
from .ode import Flow, solve
from .prior import Prior
from .score import Score


class Likelihood(NamedTuple):
    """log q_σmin of each sample, with its error and cost; float64 where the device has it."""

    log_prob: Float[Tensor, "batch"]
    # Hutchinson's standard error: 0 if the trace is exact, NaN for a single probe. From few probes
    # it is uncertain: the true error over it is Student's t with probes − 1 degrees of freedom.
    error: Float[Tensor, "batch"]
    evaluations: Int[Tensor, "batch"]  # number of evaluations of the score, each with a trace


def log_likelihood(
    score: Score,
    x: Samples,
    prior: Prior,
    *,
    sigma_min: float = 0.01,
    sigma_max: float = 50.0,
    probes: int | None = None,
    tolerance: float = 3e-6,
    max_evaluations: int = 10_000,
    chunk: int = 64,
    together: bool = False,
    noise: Noise = torch.randn_like,
) -> Likelihood:
    """Return the log-density of x under a score, at σ_min.

    Each sample has its own step sizes, so its value depends on the other samples only through
    rounding in the score.

    `prior` is the Gaussian that stands for q at `sigma_max`, tails included; this level should be
    far above the spread of the data and the distance of x from them. `probes` is the number of
    random v in Hutchinson's estimate, the signs of `noise`, or None for the exact trace, by `chunk`
    rows of the Jacobian at a time. `tolerance` is the error of a step, in nats and in x/σ, and
    `max_evaluations` the limit for each sample; a smooth score needs a few hundred. A score with a
    condition for each sample, as `model.given(labels)`, is evaluated for all `together`.
    """
    check_batch(x)
    broken = (~x.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(f"x must be finite floats, but samples {broken[:5]} are not: exclude them")
    prior.check_shape(x)
    check_ends(sigma_max, sigma_min)
    if probes is not None and probes < 1:
        raise ValueError(f"probes={probes}: give at least 1, or None for the exact trace")
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance={tolerance}: give a number above 0")
    size, probed = x[0].numel(), probes or 1

    def scale(t: Tensor, y: Tensor) -> Tensor:
        """Return the error that a step may make: δ in x is about δ/σ nats a dimension."""
        units = torch.ones_like(y)
        units[:, :size] = t.exp()[:, None]
        return tolerance * units + 4 * torch.finfo(x.dtype).eps * y.abs()

    directions = [torch.ones_like(x).copysign(noise(x)) for _ in range(probes or 0)]
    with torch.no_grad():
        start = torch.cat([x.flatten(1), x.new_zeros(len(x), probed)], 1)
        start = start.to(widest(x.device))
        ends = math.log(sigma_min), math.log(sigma_max)
        flow = _flow(score, x, directions, chunk, together)
        ((end, _, count),) = solve(flow, start, ends, scale, max_evaluations)
        if (lost := ~end.isfinite().all(1)).any():
            raise ValueError(
                f"samples {lost.nonzero()[:5, 0].tolist()} meet a score that is not finite: "
                "raise sigma_min, or find out where by `diagnose`"
            )
        base = prior.log_prob(end[:, :size].view_as(x), sigma_max)
        integrals = end[:, size:]
        # a single probe has no standard error
        error = torch.full_like(base, math.nan if probes else 0)
        if probed > 1:
            error = integrals.std(1) / math.sqrt(probed)
        return Likelihood(base + integrals.mean(1), error, count)


def _flow(score: Score, x: Tensor, directions: list[Tensor], chunk: int, together: bool) -> Flow:
    """Return (dx/dt, tr ∂(dx/dt)/∂x) in t = log σ as a function of some rows of x.

    With `together` the score is that of all rows.
    """
    points, sigmas = x.clone(), x.new_ones(len(x))

    def flow(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        points[rows] = y[:, : x[0].numel()].to(x.dtype).view(-1, *x.shape[1:])
        sigmas[rows] = t.exp().to(x.dtype)
        used = torch.arange(len(x), device=rows.device) if together else rows
        point, sigma = points[used], sigmas[used]
        s, pullback = linearize(lambda p: score(p, sigma), point)
        check_returned(s, point, "score")
        traces = [(pullback(d[used]) * d[used]).flatten(1).sum(1) for d in directions]
        traces = traces or [trace(pullback, s, chunk=chunk)]
        change = torch.cat([s.flatten(1), torch.stack(traces, 1)], 1).to(y.dtype)
        return -match(t.exp() ** 2, y) * (change[rows] if together else change)

    return flow


def bits_per_dim(
    log_prob: Float[Tensor, "batch"], size: int, *, levels: int = 256
) -> Float[Tensor, "batch"]:
    """Return −log₂ of the probability of quantised data per dimension, from a density on [0, 1].

    For x = (k + u)/levels with u uniform on [0, 1] (uniform dequantisation, to be added before), a
    cell has the side 1/levels, so bits = −log p/(size·log 2) + log₂ levels. The mean over u is an
    upper bound on the bits of k (Theis et al. 2016). With another q(x | k), subtract log q from
    `log_prob` and give levels=1. `size` is the number of values in a sample.
    """
    return -log_prob / (size * math.log(2)) + math.log2(levels)
