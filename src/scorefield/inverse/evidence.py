"""The normalizing constant Z of a density known up to a factor, such as e^(−E) of an energy E.

    Z_σ = ∫ q̃_σ(x) dx,   log q̃_σ(x) = score.log_prob(x, σ),   q_σ = q̃_σ/Z_σ

Annealed importance sampling (Neal 2001) takes samples of the prior N(μ, Σ + σ₁²I) down a grid, with
weights of mean Z_σ at each level. In a step from σ to σ' the prior's own flow F takes x along, and
a kernel such as `mala` then moves it by q_σ'. All weights are Z if q_σ is the prior. Sequential
Monte Carlo (Del Moral et al. 2006) resamples by w. Particles that do so among themselves make a
filter, and a filter of one is AIS.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr

from .._ops import Noise, Samples, match, wide, widest
from ..prior import Prior
from ..samplers.langevin import Kernel
from ..samplers.metropolis import check_density, log_density, mala
from ..samplers.state import State, sampler
from ..score import Score
from .posterior import check_filter_size, resample


class LogNormalizer(NamedTuple):
    """An estimate of log Z, and its standard error."""

    value: float
    error: float


def log_normalizer(log_w: Float[Tensor, "batch"], filter_size: int) -> LogNormalizer:
    """Return log Z from the weights of a state of `smc`, and its standard error among filters.

    The mean of w estimates Z without bias. The error is that of independent filters, to first order
    in their deviation: take 16 or more filters, and enough levels for an error well below 1.
    """
    check_filter_size(filter_size, len(log_w))
    if len(log_w) == filter_size:
        raise ValueError(f"filter_size={filter_size}: one filter has no standard error, take more")
    log_z = wide(log_w).view(-1, filter_size).logsumexp(1) - math.log(filter_size)
    z = (log_z - log_z.max()).exp()
    error = z.std() / z.mean() / len(z) ** 0.5
    return LogNormalizer((log_z.max() + z.mean().log()).item(), error.item())


def _check_smc(score: Score, x: Tensor, prior: Prior, filter_size: int, **others: Any) -> None:
    check_density(score, x)
    prior.check_shape(x)
    check_filter_size(filter_size, len(x))


@sampler(_check_smc)
def smc(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    prior: Prior,
    epsilon: float,
    filter_size: int = 64,
    kernel: Kernel = mala,
    steps: int = 1,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Run sequential Monte Carlo down a grid, with weights `State.log_w` for `log_normalizer`.

        F(x) = μ + (Σ + σ'²I)^½ (Σ + σ²I)^(−½) (x − μ),   x' by the kernel from F(x)
        log w ← log w + r_σ'(F(x)) − r_σ(x),   r_σ(x) = log q̃_σ(x) − log N(x | μ, Σ + σ²I)

    x are samples of `prior`, of mean μ and covariance Σ, at sigmas[0], and the score has a
    `log_prob`. `kernel`, which must keep q_σ, takes `steps` at each level with the step size of
    `annealed_langevin`, `epsilon` at σ_L. Each `filter_size` consecutive particles are resampled
    when their effective number falls below one half, and at the end. By w, the last state's x are
    samples of q_σ_L; those of one filter are not independent. With `filter_size=1` this is annealed
    importance sampling.
    """
    levels = sigmas.tolist()
    log_w = _excess(score, prior, x, levels[0])
    first = torch.arange(0, len(x), filter_size, device=x.device)[:, None]
    for i, sigma in enumerate(levels):
        if i > 0:
            ahead = _transport(prior, x, levels[i - 1], sigma)
            gain = _excess(score, prior, ahead, sigma) - _excess(score, prior, x, levels[i - 1])
            x, log_w = ahead, log_w + gain
        rows = log_w.view(-1, filter_size)
        uniform = ndtr(noise(log_w)).to(widest(x.device)).view_as(rows)[:, :1]
        parents, lost = resample(rows, uniform, 1 if i == len(levels) - 1 else 0.5)
        x = x[(parents + first).flatten()]
        mean = rows.logsumexp(1, keepdim=True) - math.log(filter_size)
        log_w = torch.where(lost, mean, rows).flatten()
        alpha = epsilon * (sigma / levels[-1]) ** 2
        for state in kernel(score, x, sigma, alpha=alpha, steps=steps, noise=noise):
            yield state._replace(log_w=log_w)
        x = state.x


def _excess(score: Score, prior: Prior, x: Tensor, sigma: float) -> Float[Tensor, "batch"]:
    """Return r_σ(x)."""
    return log_density(score, x, sigma) - prior.log_prob(x, sigma)


def _transport(prior: Prior, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Move x along the flow that takes the prior at σ to the prior at σ'."""
    mean, power = prior.mean.to(x), prior.covariance.power
    white = power(match(sigma, x), -0.5) @ (x - mean).flatten(1)
    return mean + (power(match(sigma_next, x), 0.5) @ white).view_as(x)
