"""How well a model fits data that it has not seen: its loss at each σ, and its likelihood.

    loss(σ) = E‖D(x + σz, σ) − x‖²·(σ² + σ_d²)/(σσ_d)², per number

Weighted as by EDM (Karras et al. 2022), so that who knows the data's mean and deviation σ_d only
has about 1 at every σ.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Batches, Source
from ..likelihood import bits_per_dim, log_likelihood
from ..model import ScoreModel
from ..noise import geometric, seeded
from ..objectives import denoising, edm_weight
from ..score import Score

LEVELS, BATCH = 12, 250
"""Noise levels, and samples at a time."""
EXACT = 16
"""Numbers of a sample up to which the trace is computed, and not estimated."""


def looked_at(numbers: int) -> int:
    """How many samples' loss is taken: fewer of large ones, for which a network takes long."""
    return max(200, min(2000, 2**19 // numbers))


@torch.no_grad()
def losses(
    curves: Mapping[str, tuple[Score, Tensor]],
    sigmas: Float[Tensor, "levels"],
    sigma_data: float,
    seed: int,
) -> Mapping[str, Float[Tensor, "levels n"]]:
    """The loss of each sample at each σ; all curves see the same noise.

    Args:
        curves: by their name a score, and the samples on which it is tried.
        sigmas: noise levels.
        sigma_data: the data's deviation σ_d.
        seed: of the noise.
    """
    weight = edm_weight(sigma_data)(sigmas)
    found = {}
    for name, (score, x) in curves.items():
        rows = []
        for w, sigma in zip(weight, sigmas.tolist(), strict=True):
            parts = [
                denoising(score, part, sigma, noise=seeded(seed, first=i * BATCH))
                for i, part in enumerate(torch.split(x, BATCH))
            ]
            rows.append(w * torch.cat(parts).cpu() / x[0].numel())
        found[name] = torch.stack(rows)
    return found


def levels(model: ScoreModel) -> Float[Tensor, "levels"]:
    """The σ at which a model is tried: over its range, where it knows them."""
    return model.round(geometric(model.sigma_max, model.sigma_min, LEVELS))


def nats(
    model: ScoreModel, source: Source, n: int, seed: int
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """−log q_σmin of n held-out samples in nats, and if they are in 8 bits in bits per number.

    8-bit samples are dequantised: a point of each cell at random, so the bits are an upper bound of
    those of the integers. The trace is exact for few numbers, else estimated without bias by one
    random direction for each sample, whose noise is part of that among samples.

    Args:
        model: with a prior.
        source: held-out samples.
        n: how many, no more than there are.
        seed: of the choice and of the noise.
    """
    assert model.prior is not None
    x = Batches(source, min(n, len(source)), seed=seed)(0).x.to(model.prior.mean)
    probes = None if source.shape.numel() <= EXACT else 1
    found = log_likelihood(
        model,
        x,
        model.prior,
        sigma_min=model.sigma_min,
        sigma_max=model.sigma_max,
        probes=probes,
        tolerance=1e-3,
        noise=seeded(seed),
    ).log_prob.cpu()
    return -found, bits_per_dim(found, source.shape.numel(), levels=source.levels)
