"""The U-Net of each package, of as many operations, with its package's own step of training.

They are DDPM's U-Net (Ho et al. 2020) with two blocks a level and attention at the second: ours,
and `UNet2DModel` of diffusers. Azula's has no attention and fewer wide convolutions; at 5/4 of the
width and with one block more at the last level it does as many operations, to 3 %. Each is trained
as its package would have it, by one optimiser: ours by its objective, diffusers' by the noise that
DDPM's scheduler added, azula's by the loss of its denoiser.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.fast.optimize import optimize
from scorefield.model import ScoreModel
from scorefield.nn import UNet
from scorefield.noise import LogUniform
from scorefield.objectives import annealed, denoising, edm_weight
from scorefield.precondition import EDM

from .loops import ENDS, OURS, SIGMA_MAX, SIGMA_MIN, Told
from .measure import Way


class Size(NamedTuple):
    """Of images and networks."""

    shape: tuple[int, int, int]
    width: int
    multipliers: tuple[int, ...]
    batch: int

    @property
    def groups(self) -> int:
        """Of normalisations: DDPM's 32, where there are as many channels."""
        return min(32, self.width)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)


class Unet(NamedTuple):
    """A package's network.

    Attributes:
        package: Whose it is.
        build: F(u, cond), one cond a sample.
        training: From the network and clean images to a step.
        loop: The sampler that goes with it, one of `LOOPS`.
    """

    package: str
    build: Callable[[Size], nn.Module]
    training: Callable[[nn.Module, Tensor], Way]
    loop: str


# ── Networks ─────────────────────────────────────────────────────────────────────────────────────


def ours(size: Size) -> nn.Module:
    """DDPM's."""
    return UNet(
        channels=size.shape[0],
        width=size.width,
        multipliers=size.multipliers,
        blocks=2,
        attention=(1,),
        form="ddpm",
        embedding="sinusoidal",
        fir=None,
        progressive_input="none",
        skip_rescale=False,
        groups=size.groups,
        dropout=0.0,
    )


class OfDiffusers(nn.Module):
    """`UNet2DModel`, without the object around its output."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        channels, side, _ = size.shape
        down, up = (["DownBlock2D"] * len(size.widths), ["UpBlock2D"] * len(size.widths))
        down[1], up[-2] = "AttnDownBlock2D", "AttnUpBlock2D"
        self.net = importlib.import_module("diffusers").UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=size.widths,
            layers_per_block=2,
            attention_head_dim=None,
            norm_num_groups=size.groups,
        )

    def forward(self, u: Tensor, cond: Tensor) -> Tensor:
        """F of a batch."""
        f: Tensor = self.net(u, cond, return_dict=False)[0]
        return f


class OfAzula(nn.Module):
    """Its U-Net, told the noise level by its encoding of a number."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        channels, features = size.shape[0], 4 * size.width
        self.encoding = importlib.import_module("azula.nn.layers").SineEncoding(features)
        self.net = importlib.import_module("azula.nn.unet").UNet(
            channels,
            channels,
            hid_channels=[5 * width // 4 for width in size.widths],
            hid_blocks=[2] * (len(size.widths) - 1) + [3],
            mod_features=features,
        )

    def forward(self, u: Tensor, cond: Tensor) -> Tensor:
        """F of a batch."""
        f: Tensor = self.net(u, self.encoding(cond))
        return f


# ── Steps of training ────────────────────────────────────────────────────────────────────────────


def stepped(net: nn.Module, loss: Callable[[], Tensor]) -> Way:
    """A step of Adam on a loss."""
    adam = torch.optim.Adam(net.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        adam.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        adam.step()

    net.train()
    return step


def train_ours(net: nn.Module, x: Tensor) -> Way:
    """Denoising score matching over all σ."""
    return _train(modelled(net, x), x)


def train_optimized(net: nn.Module, x: Tensor) -> Way:
    """The same through `optimize`."""
    model = modelled(net, x)
    optimize(model, batch=len(x), train=True)
    return _train(model, x)


def _train(model: ScoreModel, x: Tensor) -> Way:
    loss = annealed(denoising, LogUniform(**ENDS), edm_weight(1.0))
    return stepped(model.net, lambda: loss(model, x).mean())


def modelled(net: nn.Module, x: Tensor) -> ScoreModel:
    """A network as a score."""
    return ScoreModel(net, EDM(1.0, **ENDS), shape=x.shape[1:])


def train_diffusers(net: nn.Module, x: Tensor) -> Way:
    """The noise predicted from what a scheduler has made of it, as in the library's examples."""
    scheduler: Any = importlib.import_module("diffusers").DDPMScheduler()
    steps: int = scheduler.config.num_train_timesteps

    def loss() -> Tensor:
        noise = torch.randn_like(x)
        t = torch.randint(0, steps, (len(x),), device=x.device)
        return F.mse_loss(net(scheduler.add_noise(x, noise, t), t), noise)

    return stepped(net, loss)


def train_azula(net: nn.Module, x: Tensor) -> Way:
    """The loss of its denoiser."""
    schedule = importlib.import_module("azula.noise").VESchedule(SIGMA_MIN, SIGMA_MAX)
    denoiser: Any = importlib.import_module("azula.denoise").KarrasDenoiser(Told(net), schedule)
    return stepped(net, lambda: denoiser.loss(x, torch.rand(len(x), device=x.device)))


OPTIMIZED = f"{OURS}, optimize"

UNETS = {
    OURS: Unet(OURS, ours, train_ours, "dpm_solver"),
    OPTIMIZED: Unet(OURS, ours, train_optimized, "dpm_solver"),
    "diffusers": Unet("diffusers", OfDiffusers, train_diffusers, "EDMDPMSolverMultistepScheduler"),
    "azula": Unet("azula", OfAzula, train_azula, "xEABSampler"),
}
