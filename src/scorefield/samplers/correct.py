"""Predictor–corrector sampling (Song et al. 2021, Algorithms 2 and 4).

A predictor takes samples of q at σ to σ'; a few Langevin steps at σ' then reduce its error:

    x ← x + α·s(x, σ') + √(2α)·z
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise, sq_norm
from ..score import Score
from .state import State, sampler
from .steps import Step, reverse_diffusion


@sampler()
def predictor_corrector(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    predictor: Step = reverse_diffusion,
    corrections: int = 1,
    ratio: float = 0.16,
    rule: Literal["sample", "batch"] = "sample",
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Take a step of the predictor and then Langevin corrections, from level to level.

    With `ratio` r, the signal-to-noise ratio (0.16 for CIFAR-10), a correction has α = 2r²σ² by the
    rule "sample". By "batch" it has score_sde's α = 2(r·mean‖z‖/mean‖s‖)², so that a sample depends
    on the rest of its batch. The other arguments are `integrate`'s.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x, denoised = predictor(score, x, sigma, sigma_next, noise)
        for _ in range(corrections):
            s, z = score(x, sigma_next), noise(x)
            scale = sigma_next if rule == "sample" else _mean_norm(z) / _mean_norm(s)
            alpha = 2 * (ratio * scale) ** 2
            denoised = x + sigma_next**2 * s
            x = x + alpha * s + math.sqrt(2 * alpha) * z
        yield State(x, sigma_next, denoised)


def _mean_norm(x: Tensor) -> float:
    """Return the mean of ‖x‖ over a batch, a divisor."""
    return sq_norm(x).sqrt().mean().clamp(min=torch.finfo(x.dtype).tiny).item()
