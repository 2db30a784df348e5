"""What the toy experiments share: the mixture of Figures 2 and 3, and scores without noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._ops import Noise, Sigma
from ..oracles import GaussianMixture
from ..score import Score

WEIGHT = 0.2
"""Of the small mode."""


def mixture() -> GaussianMixture:
    """⅕ N((−5, −5), I) + ⅘ N((5, 5), I)."""
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
    return GaussianMixture(means, 1.0, torch.tensor([WEIGHT, 1 - WEIGHT]))


def generated(seed: int) -> Noise:
    """Noise of a generator, in the order of its draws."""
    generator = torch.Generator().manual_seed(seed)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    return noise


def unconditional(net: nn.Module) -> Score:
    """The score that a network gives which is told no noise level."""

    def score(x: Tensor, sigma: Sigma) -> Tensor:
        s: Tensor = net(x)
        return s

    return score
