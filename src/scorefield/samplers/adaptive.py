"""The probability-flow ODE with step sizes of its own for each sample.

In t = −log σ it is dx/dt = σ²·s(x, σ) = D − x, where D is the denoised sample.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise, Samples, match, widest
from ..ode import solve
from ..score import Score
from .state import State, sampler


@sampler()
def adaptive(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    tolerance: float = 1e-3,
    sigma_data: float = 1.0,
    max_evaluations: int = 10_000,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Take steps of an error of at most `tolerance` each, by Dormand and Prince's pair of order 5.

    The ODE is dx/dt = σ²·s(x, σ) in t = −log σ. The error is that of a number of x over
    √(σ_d² + σ²), where `sigma_data` is the data's standard deviation σ_d. Steps also end at the
    levels of the grid, of which two are enough.
    `State.evaluations` has the number of each sample, at most `max_evaluations`; a batch takes as
    long as its slowest sample. One that meets a score which is not finite becomes NaN. `noise` is
    not used.
    """
    points, levels = x.clone(), x.new_full((len(x),), sigmas[0].item())

    def flow(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        points[rows] = y.view(-1, *x.shape[1:]).to(x.dtype)
        levels[rows] = (-t).exp().to(x.dtype)
        s = score(points, levels)[rows]  # of all rows, for a score that has a condition for each
        return match((-2 * t).exp(), y) * s.flatten(1).to(y.dtype)

    def scale(t: Tensor, y: Tensor) -> Tensor:
        spread = (sigma_data**2 + (-2 * t).exp()).sqrt()
        return tolerance * spread[:, None] + 4 * torch.finfo(x.dtype).eps * y.abs()

    times = [-math.log(sigma) for sigma in sigmas.tolist()]
    ends = solve(flow, x.flatten(1).to(widest(x.device)), times, scale, max_evaluations, 0.5)
    for sigma in sigmas[1:].tolist():
        y, slope, evaluations = next(ends)
        end, denoised = (z.view_as(x).to(x.dtype) for z in (y, y + slope))
        yield State(end, sigma, denoised, evaluations=evaluations)
