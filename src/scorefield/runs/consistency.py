"""Consistency tuning: from a score model to one that samples in 1 or 2 evaluations.

    E‖D(x + σz, σ) − D(x + rz, r)‖/(σ − r),   r = σ(1 − n(σ)/2ᵏ),   n(σ) = 1 + 8/(1 + exp(σ/2σ_d))

D(y, σ) = y + σ²s learns the end of the ODE's trajectory through y (ECT; Geng et al. 2024). The
gradient goes through the first D only. k grows with the step; in its first stages r is mostly 0,
where D = x and the loss is score matching. The norm is √(‖·‖² + c²) − c (Song & Dhariwal 2024).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise, Sigma, match, positive, sq_norm
from ..noise import perturb
from ..objectives import annealed
from ..score import Score, to_denoiser

CONSISTENCY_STAGES = 5
"""Stages of a tuning by default. With 8, samples of digits became worse again."""
MAX_DOUBLINGS = 12
"""Largest k; beyond, σ − r is lost in float32."""


def consistency(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigma: Sigma,
    *,
    noise: Noise = torch.randn_like,
    doublings: int = CONSISTENCY_STAGES,
    sigma_data: float = 0.5,
    sigma_min: float = 0.002,
) -> Float[Tensor, "batch"]:
    """Return the loss at k = `doublings`; r below `sigma_min` counts as 0.

    Both evaluations have the same noise and the same dropout.
    """
    sigma = positive(sigma, x.new_empty(len(x))).expand(len(x))
    n = 1 + 8 * torch.sigmoid(-sigma / (2 * sigma_data))
    r = sigma * (1 - n / 2**doublings)
    r = torch.where(r < sigma_min, 0.0, r)
    z, denoiser = noise(x), to_denoiser(score)
    devices = [] if x.device.type == "cpu" else [x.device]
    with torch.no_grad(), torch.random.fork_rng(devices, device_type=x.device.type):
        near = r.clamp(min=sigma_min)
        end = torch.where(match(r, x) > 0, denoiser(perturb(x, near, z), near), x)
    gap = denoiser(perturb(x, sigma, z), sigma) - end
    c = 0.00108 * sigma_data * x[0].numel() ** 0.5  # the paper's, whose σ_d is 0.5
    loss: Tensor = ((sq_norm(gap) + c**2).sqrt() - c) / (sigma - r)
    return loss


def consistency_loss(
    levels: Callable[[Tensor], Tensor], stage: int, steps: int, **options: Any
) -> Callable[..., Tensor]:
    """Return the loss at random σ, in which k grows from 1 by 1 every `stage` steps.

    Without a `step`, it is that of the last of `steps`.
    """

    def loss(*args: Any, step: int = steps - 1, noise: Noise = torch.randn_like) -> Tensor:
        k = min(1 + step // stage, MAX_DOUBLINGS)
        objective = partial(consistency, doublings=k, **options)
        return annealed(objective, levels, torch.ones_like)(*args, noise=noise)

    return loss
