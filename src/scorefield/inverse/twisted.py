"""Samplers of q_σ(x)·p̂(y | x, σ) at falling σ, a density twisted by pigdm's prediction of y.

    p̂(y | x, σ) = N(y | A·D(x), σ_y²I + r²AAᵀ)

At σ = 0 it is the posterior. `pigdm_langevin` takes Langevin steps at each σ, by the score of
`pigdm`, so that a chain can still correct at a low σ what p̂ gets wrong at a high one. `tds` is the
twisted diffusion sampler (Wu et al. 2023, Algorithm 1), whose weights correct whatever p̂ gets wrong
before σ_L.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise, sq_norm
from ..samplers import State, Step, euler, underdamped
from ..samplers.state import Guarded, sampler
from ..score import Score
from .condition import Prediction, by_ball, pigdm, predict_measurement
from .operators import LinearOperator
from .posterior import check_filters, choose_parents, group_particles
from .split import check_observation


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

        x' ~ N(x + h·(s + g), vI),   g = ∇ₓ log p̂(y | x, σ),   h = σ² − σ'²,   v = hσ'²/σ²
        w ← w · N(x' | x + h·s, vI)/N(x' | x + h·(s + g), vI) · p̂(y | x', σ')/p̂(y | x, σ)

    p̂ is the prediction of `pigdm`. The particles sample the posterior, exactly for many of them
    and small steps; the better p̂ is, the fewer are enough. `sigma_data` is the data's standard
    deviation, as in `pigdm`. For the rest see `particle_filter`: here no particles share a noisy
    path of y.
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


DENSE_BELOW = 4.0
"""Largest σ, in deviations of the data, of the dense levels of `dense_grid`."""
DENSE_ABOVE = 0.2
"""Smallest σ, in deviations of the data, of the dense levels of `dense_grid`."""
DENSITY = 5
"""Number of levels in the dense range for each one elsewhere, in the same ratio of σ."""


def dense_grid(
    sigma_max: float,
    sigma_min: float,
    levels: int,
    deviation: float,
    *,
    above: float = DENSE_ABOVE,
    density: int = DENSITY,
) -> Float[Tensor, "levels"]:
    """Return σᵢ for `pigdm_langevin`, dense around the data's deviation.

    A chain chooses its mode between 4 and 0.2 deviations. There levels are 5 times as dense, in
    log σ, as above and below: of a range of 440 to 1 as that of the digits, 83 % are there.
    """
    inside = [min(max(k * deviation, sigma_min), sigma_max) for k in (DENSE_BELOW, above)]
    ends = torch.tensor([sigma_max, *inside, sigma_min], dtype=torch.float64).log()
    weights = torch.tensor([1, density, 1])
    counts = -ends.diff() * weights
    position = torch.linspace(0, counts.sum().item(), levels, dtype=torch.float64)[:, None]
    passed = (position - counts.cumsum(0) + counts).clamp(min=0).minimum(counts)
    return (ends[0] - (passed / weights).sum(1)).exp().to(torch.get_default_dtype())


@sampler(check_observation)
def pigdm_langevin(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    sigma_y: float = 0.0,
    sigma_data: float = 0.5,
    inner: int = 3,
    ratio: float = 0.45,
    momentum: float = 0.75,
    predictor: Step | None = None,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Sample by annealed Langevin dynamics with pigdm's score, exactly for many levels.

        s(x, σ) + ∇ₓ log N(y | A·D, σ_y²I + r²AAᵀ),   r² = σ²σ_d²/(σ² + σ_d²)

    Each level takes `inner` steps of `underdamped`, of the size α = 2·ratio²·σ². A step is one
    evaluation and one pullback. `sigma_data` is the data's standard deviation, as in
    `pigdm`. The last state is x₀, with a noiseless y imposed on it.

    A `predictor`, such as `euler`, goes from each level to the next one. Without it, directions
    that Langevin steps of the size of σ hardly move keep the width of a higher level.

    Modes mix at a high σ only, where their weights are those of the twisted density.
    """
    # so that no level checks x again, for which a device would have to wait
    conditional = Guarded(pigdm(score, operator, y, sigma_y=sigma_y, sigma_data=sigma_data))
    for sigma, low in pairwise([*sigmas.tolist(), 0.0]):
        alpha = 2 * (ratio * sigma) ** 2
        x = yield from underdamped(
            conditional, x, sigma, alpha=alpha, steps=inner, momentum=momentum, noise=noise
        )
        if predictor is not None and low > 0:
            x, _ = predictor(conditional, x, sigma, low, noise)
    x, _ = euler(conditional, x, sigma, 0.0, noise)
    x = operator.project(x, y.to(x)) if sigma_y == 0 else x
    yield State(x, 0.0, x)
