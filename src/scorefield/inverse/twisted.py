"""The twisted diffusion sampler (Wu et al. 2023, Algorithm 1).

    p̂(y | x, σ) = N(y | A·D(x), σ_y²I + r²AAᵀ)           pigdm's, which twists the reverse diffusion
    x' ~ N(x + h·(s + ∇ₓ log p̂(y | x, σ)), (hσ'²/σ²)I),   h = σ² − σ'²
    w ← w · N(x' | x + h·s, (hσ'²/σ²)I) · p̂(y | x', σ') / N(x' | x + h·(s + ∇ log p̂), …) p̂(y | x, σ)

The weights correct whatever p̂ gets wrong before σ_L, so that the particles sample the posterior,
exactly for many particles and small steps. The better p̂ is, the fewer are enough.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise, sq_norm
from ..samplers import State
from ..samplers.state import sampler
from ..score import Score
from .condition import Prediction, by_ball, predict_measurement
from .operators import LinearOperator
from .posterior import check_filters, choose_parents, group_particles


@sampler(check_filters)
def tds(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    sigma_y: float = 0.0,
    sigma_data: float = 0.5,
    filter_size: int | None = None,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Sample from p(x | y) by twisted particles, with one evaluation and one pullback a level.

    `sigma_data` is the data's standard deviation, as in `pigdm`. For the rest see
    `particle_filter`: here no particles share a noisy path of y.
    """
    levels = sigmas.tolist()
    filters = group_particles(x, operator.keep_observed(y.to(x)), filter_size)
    weigh = by_ball(operator, sigma_y, sigma_data)
    predict = predict_measurement(score, operator, filters.y[filters.of], weigh)
    now = predict(x, levels[0])
    log_w = now.log_p
    for sigma, low in pairwise(levels):
        parents, log_w = choose_parents(log_w, filters, noise, 0.5)
        x, now = x[parents], Prediction(*(part[parents] for part in now))
        h, z = sigma**2 - low**2, noise(x)
        width, twist = low / sigma * h**0.5, h * now.pull
        x = x + h / sigma**2 * (now.denoised - x) + twist + width * z
        last, now = now, predict(x, low)
        # log of the untwisted density of x' over the twisted one, −½‖z + twist/width‖² + ½‖z‖²
        ratio = 0.5 * (sq_norm(z) - sq_norm(z + twist / width))
        log_w = log_w + ratio + now.log_p - last.log_p
        yield State(x, low, last.denoised)
    parents, _ = choose_parents(log_w, filters, noise, 1)
    x = now.denoised[parents]
    x = operator.project(x, filters.y[filters.of]) if sigma_y == 0 else x
    yield State(x, 0.0, x)
