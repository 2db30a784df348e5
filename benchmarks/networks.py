"""The networks that are timed, with random weights, because time does not depend on them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scorefield.model import ScoreModel
from scorefield.nn import MLP, RefineNet, UNet
from scorefield.noise import geometric
from scorefield.precondition import EDM, NCSN, NCSNv2
from scorefield.prior import Prior
from scorefield.runs.presets import PRESETS

from .measure import Task

ENDS: dict[str, float] = {"sigma_max": 1.0, "sigma_min": 0.01}
LADDER = geometric(ENDS["sigma_max"], ENDS["sigma_min"], 10)


def ncsn(channels: int, width: int, size: int) -> ScoreModel:
    """Song & Ermon 2019."""
    net = RefineNet(channels, width, levels=len(LADDER))
    return ScoreModel(net, NCSN(LADDER), shape=(channels, size, size))


def ncsnv2(channels: int, width: int, size: int) -> ScoreModel:
    """Song & Ermon 2020."""
    return ScoreModel(RefineNet(channels, width), NCSNv2(**ENDS), shape=(channels, size, size))


def unet() -> ScoreModel:
    """A UNet for digits of 8 × 8 pixels."""
    net = UNet(channels=1, width=64, multipliers=[1, 2], blocks=2, attention=[1], dropout=0.0)
    return ScoreModel(net, EDM(0.4, **ENDS), shape=(1, 8, 8))


def photos_unet(width: int) -> ScoreModel:
    """The network of the preset `photos` at some width, which starts from noise."""
    options = {k: v for k, v in PRESETS["photos"].network.items() if k != "kind"}
    net = UNet(channels=3, **options | {"width": width})
    prior = Prior(torch.zeros(3, 32, 32), torch.tensor(1.0))
    return ScoreModel(net, EDM(0.4, **ENDS), prior=prior)


def digits() -> ScoreModel:
    """The network of the preset `digits`."""
    return ScoreModel(MLP((1, 8, 8), width=384, blocks=4), EDM(0.4, **ENDS), shape=(1, 8, 8))


class Network(NamedTuple):
    """A network, and the batch that it is measured on."""

    build: Callable[[], ScoreModel]
    batch: int


NETWORKS = {
    "NCSN 64, 1×28×28, batch 32": Network(partial(ncsn, 1, 64, 28), 32),
    "NCSN 64, 1×28×28, batch 128": Network(partial(ncsn, 1, 64, 28), 128),
    "NCSN 128, 3×32×32, batch 32": Network(partial(ncsn, 3, 128, 32), 32),
    "NCSNv2 128, 3×32×32, batch 32": Network(partial(ncsnv2, 3, 128, 32), 32),
    "UNet 64, 1×8×8, batch 128": Network(unet, 128),
    "digits’ MLP, 1×8×8, batch 128": Network(digits, 128),
}
GPU_NETWORKS = {
    f"{name}, 3×32×32, batch {batch}": Network(build, batch)
    for name, build in (
        ("NCSN 128", partial(ncsn, 3, 128, 32)),
        ("UNet 64", partial(photos_unet, 64)),
        ("NCSN 64", partial(ncsn, 3, 64, 32)),
        ("UNet 128", partial(photos_unet, 128)),
    )
    for batch in (128, 16)
}
"""On a GPU products dominate the large batch, and launches the small one."""
QUICK_NETWORKS = {"NCSN 8, 1×8×8, batch 2": Network(partial(ncsn, 1, 8, 8), 2)}


def make_inputs(model: ScoreModel, batch: int) -> tuple[Tensor, Tensor]:
    """Return images, and levels of the ladder in turn."""
    assert model.shape is not None
    x, sigma = torch.rand(batch, *model.shape), LADDER[torch.arange(batch) % len(LADDER)]
    return x.to(model.device), sigma.to(model.device)


def training(model: ScoreModel, x: Tensor, sigma: Tensor) -> Task:
    """A step of denoising score matching."""
    level = sigma.view(-1, *[1] * (x.ndim - 1))

    def loss() -> Tensor:
        z = torch.randn_like(x)
        return 0.5 * (level * model(x + level * z, sigma) + z).square().flatten(1).sum(1).mean()

    return adam_step(model, loss)


def adam_step(net: nn.Module, loss: Callable[[], Tensor]) -> Task:
    adam = torch.optim.Adam(net.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        adam.zero_grad()
        loss().backward()
        adam.step()

    net.train()
    return step


def sampling(model: ScoreModel, x: Tensor, sigma: Tensor) -> Task:
    """A step of Langevin dynamics; as in a chain, the batch shares one level."""
    level = sigma[0].item()

    @torch.no_grad()
    def step() -> None:
        _ = x + 1e-5 * model(x, level) + (2e-5) ** 0.5 * torch.randn_like(x)

    model.eval()
    return step


STEPS = {"training": training, "sampling": sampling}
"""Functions that return a step on given inputs."""
