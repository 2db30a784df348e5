"""The networks that are timed, with random weights, for the time does not depend on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorefield.model import ScoreModel
from scorefield.nn import MLP, RefineNet, UNet
from scorefield.noise import geometric
from scorefield.precondition import EDM, NCSN, NCSNv2

ENDS: dict[str, float] = {"sigma_max": 1.0, "sigma_min": 0.01}
LEVELS = 10


class Network(NamedTuple):
    """What is measured, and on how many samples at once.

    Attributes:
        least: The share of the machine's peak that the plain way must reach, or ratios to it say
            little of what was gained.
    """

    build: Callable[[], ScoreModel]
    shape: tuple[int, ...]
    batch: int
    least: float = 0.0


def ncsn(channels: int, width: int, size: int, levels: int = LEVELS) -> ScoreModel:
    """The first paper's network."""
    sigmas = geometric(ENDS["sigma_max"], ENDS["sigma_min"], levels)
    net = RefineNet(channels, width, levels=levels)
    return ScoreModel(net, NCSN(sigmas), shape=(channels, size, size))


def ncsnv2(channels: int, width: int, size: int) -> ScoreModel:
    """The second paper's network."""
    net = RefineNet(channels, width)
    return ScoreModel(net, NCSNv2(**ENDS), shape=(channels, size, size))


def unet() -> ScoreModel:
    """A UNet for digits of 8 × 8 pixels."""
    settings: dict[str, Any] = dict(width=64, multipliers=[1, 2], blocks=2, attention=[1])
    net = UNet(channels=1, dropout=0.0, **settings)
    return ScoreModel(net, EDM(0.4, **ENDS), shape=(1, 8, 8))


def digits() -> ScoreModel:
    """The network of the preset `digits`."""
    net = MLP((1, 8, 8), width=384, blocks=4)
    return ScoreModel(net, EDM(0.4, **ENDS), shape=(1, 8, 8))


NETWORKS = {
    "NCSN 64, 1×28×28, batch 32": Network(lambda: ncsn(1, 64, 28), (1, 28, 28), 32, 0.5),
    "NCSN 64, 1×28×28, batch 128": Network(lambda: ncsn(1, 64, 28), (1, 28, 28), 128, 0.5),
    "NCSN 128, 3×32×32, batch 32": Network(lambda: ncsn(3, 128, 32), (3, 32, 32), 32, 0.65),
    "NCSNv2 128, 3×32×32, batch 32": Network(lambda: ncsnv2(3, 128, 32), (3, 32, 32), 32, 0.65),
    "UNet 64, 1×8×8, batch 128": Network(unet, (1, 8, 8), 128),
    "digits’ MLP, 1×8×8, batch 128": Network(digits, (1, 8, 8), 128),
}
ON_A_GPU = {
    f"NCSN 128, 3×32×32, batch {batch}": Network(lambda: ncsn(3, 128, 32), (3, 32, 32), batch)
    for batch in (16, 128)
}
"""Measured there as well: the small batch's time is mostly launches, the large one's products."""
QUICK = {"NCSN 16, 1×8×8, batch 8": Network(lambda: ncsn(1, 16, 8), (1, 8, 8), 8)}
"""Only to see whether it runs."""


def inputs(network: Network, batch: int) -> tuple[Tensor, Tensor]:
    """Images, and noise levels of a ladder in turn."""
    sigmas = geometric(ENDS["sigma_max"], ENDS["sigma_min"], LEVELS)
    return torch.rand(batch, *network.shape), sigmas[torch.arange(batch) % LEVELS]


def training(model: ScoreModel, x: Tensor, sigma: Tensor) -> Callable[[], object]:
    """A step of denoising score matching with Adam."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)
    each = sigma.view(-1, *[1] * (x.ndim - 1))

    def step() -> None:
        z = torch.randn_like(x)
        adam.zero_grad()
        (0.5 * (each * model(x + each * z, sigma) + z).square()).flatten(1).sum(1).mean().backward()
        adam.step()

    model.train()
    return step


def sampling(model: ScoreModel, x: Tensor, sigma: Tensor) -> Callable[[], object]:
    """A step of Langevin dynamics, at one level as in a chain."""
    level = sigma[0].item()

    @torch.no_grad()
    def step() -> None:
        _ = x + 1e-5 * model(x, level) + (2e-5) ** 0.5 * torch.randn_like(x)

    model.eval()
    return step


STEPS: dict[str, Callable[[ScoreModel, Tensor, Tensor], Callable[[], object]]] = {
    "training": training,
    "sampling": sampling,
}
