"""Samplers and U-Nets of this package, `diffusers` and `azula`, in one form.

Samplers run on one network F(u, cond), cond = ¼ log σ, which each package puts under its own
preconditioning of EDM with σ_d = 1 (Karras et al. 2022, table 1). All go down geometric grids with
as many evaluations; ours and diffusers' that take one per step end at σ = 0, the others at the
least σ.

U-Nets are DDPM's (Ho et al. 2020), by default with two blocks per level, with attention at the
second. azula's has no attention and fewer wide convolutions; at 5/4 of the width and with one more
block at the last level it does as many operations to 3 %.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.fast.optimize import optimize
from scorefield.model import ScoreModel
from scorefield.nn import UNet
from scorefield.noise import LogUniform, geometric
from scorefield.objectives import annealed, denoising, edm_weight
from scorefield.precondition import EDM
from scorefield.samplers import SAMPLERS, final

from . import Item

OURS = "scorefield"
OPTIMIZED = f"{OURS}, optimize"
EXTRA = "pip install 'scorefield[peers]'"
# azula and deepinv require torchvision, which none of the compared functions uses
INSTALL = {
    "diffusers": EXTRA,
    "azula": f"{EXTRA}, then pip install --no-deps azula",
    "torchebm": EXTRA,
    "deepinv": f"{EXTRA}, then pip install --no-deps deepinv",
}
PARTS = ("datasets", "datasets.folder", "datasets.utils", "transforms", "transforms.functional")
TORCHVISION = ["torchvision", *(f"torchvision.{part}" for part in (*PARTS, "utils"))]
"""Modules that deepinv imports."""
ENDS: dict[str, float] = {"sigma_max": 20.0, "sigma_min": 0.01}

Chain = Callable[[Tensor], Tensor]
"""From samples at the largest σ to samples."""
Loss = Callable[[], Tensor]


class Absent(ModuleType):
    """A stand-in for a module that is not installed: it has every name, and none can be called."""

    def __getattr__(self, name: str) -> "Absent":
        if name.startswith("__"):  # what imports and inspections ask for
            raise AttributeError(name)
        return Absent(name)


def import_deepinv() -> Any:
    """Import deepinv; where torchvision is not installed, with stand-ins for the import alone."""
    absent = TORCHVISION if find_spec("torchvision") is None else []
    sys.modules.update({name: Absent(name) for name in absent})
    try:
        return import_module("deepinv")
    finally:
        for name in absent:
            del sys.modules[name]


def missing(package: str) -> str | None:
    """Return why a package cannot run and how to install it; None if it can."""
    try:
        if package == "deepinv":
            import_deepinv()
        else:
            import_module("azula.sample" if package == "azula" else package)
    except ImportError as error:
        return f"{package} was skipped ({error}): {INSTALL[package]}"
    return None


def available(items: Mapping[str, Item]) -> dict[str, Item]:
    """Return the items of this package and of installed ones, with whose names their keys begin."""
    named = (package for package in INSTALL if any(name.startswith(package) for name in items))
    absent = tuple(filter(missing, named))
    return {name: item for name, item in items.items() if not name.startswith(absent)}


def notes(*names: str) -> list[str]:
    """Return which of these packages are compared, and which are missing."""
    absent = {package: missing(package) for package in names}
    installed = [f"{name} {version(name)}" for name, reason in absent.items() if reason is None]
    compared = [f"Compared with {' and '.join(installed)}."] * bool(installed)
    return [*compared, *filter(None, absent.values())]


class Function(nn.Module):
    """A function of (u, cond) as a network, with the modules that it uses."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, u: Tensor, cond: Tensor) -> Tensor:
        """Return F(u, cond)."""
        return self.function(u, cond)


def as_score(net: nn.Module, shape: torch.Size | None = None) -> ScoreModel:
    return ScoreModel(net, EDM(1.0, **ENDS), shape=shape)


# ── Samplers ─────────────────────────────────────────────────────────────────────────────────────


class Contender(NamedTuple):
    """A sampler of a package: the nearest of ours, and its run of a number of evaluations."""

    package: str
    name: str
    ours: str
    build: Callable[[nn.Module, int], Chain]


def own(name: str, per_step: int = 1) -> Contender:
    def build(net: nn.Module, evaluations: int) -> Chain:
        score, last = as_score(net), per_step == 1
        grid = geometric(*ENDS.values(), evaluations if last else evaluations // per_step + 1)
        return lambda x: final(SAMPLERS[name].run(score, x, grid, denoise=last))

    return Contender(OURS, name, name, build)


def edm_scheduler(name: str, ours: str) -> Contender:
    def build(net: nn.Module, evaluations: int) -> Chain:
        scheduler_class = getattr(import_module("diffusers"), name)
        scheduler = scheduler_class(sigma_data=1.0, sigma_schedule="exponential", **ENDS)

        @torch.no_grad()
        def chain(x: Tensor) -> Tensor:
            scheduler.set_timesteps(evaluations, device=x.device)
            for t in scheduler.timesteps:
                f = net(scheduler.scale_model_input(x, t), t.expand(len(x)))
                x = scheduler.step(f, t, x, return_dict=False)[0]
            return x

        return chain

    return Contender("diffusers", name, ours, build)


def azula_sampler(name: str, ours: str, per_step: int = 1) -> Contender:
    def build(net: nn.Module, evaluations: int) -> Chain:
        sampler = getattr(import_module("azula.sample"), name)
        return sampler(azula_denoiser(net), steps=evaluations // per_step, silent=True)

    return Contender("azula", name, ours, build)


def azula_denoiser(net: nn.Module) -> Any:
    """Return azula's own preconditioning of a network; it gives log σ, one for all samples."""
    log_sigma_net = Function(lambda u, t: net(u, (t / 4).expand(len(u))), net)
    schedule = import_module("azula.noise").VESchedule(ENDS["sigma_min"], ENDS["sigma_max"])
    return import_module("azula.denoise").KarrasDenoiser(log_sigma_net, schedule)


CONTENDERS = (
    own("euler"),
    edm_scheduler("EDMEulerScheduler", "euler"),
    azula_sampler("EulerSampler", "euler"),
    own("heun", per_step=2),
    azula_sampler("HeunSampler", "heun", per_step=2),
    own("dpm_solver"),
    edm_scheduler("EDMDPMSolverMultistepScheduler", "dpm_solver"),
    azula_sampler("xEABSampler", "dpm_solver"),
    own("ancestral"),
    azula_sampler("DDPMSampler", "ancestral"),
)
"""Samplers of this package, and after each those of other packages of its kind."""


# ── U-Nets ───────────────────────────────────────────────────────────────────────────────────────


class Size(NamedTuple):
    """Size of the images, the U-Net and the batch."""

    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    batch: int
    blocks: int = 2  # a level


def own_unet(size: Size) -> nn.Module:
    width, multipliers = size.widths[0], [width // size.widths[0] for width in size.widths]
    options: dict[str, Any] = {"form": "ddpm", "embedding": "sinusoidal", "fir": None}
    options |= {"progressive_input": "none", "skip_rescale": False, "dropout": 0.0}
    options |= {"multipliers": multipliers, "blocks": size.blocks, "groups": min(32, width)}
    return UNet(channels=size.shape[0], width=width, attention=(1,), **options)


def diffusers_unet(size: Size) -> nn.Module:
    down, up = ["DownBlock2D"] * len(size.widths), ["UpBlock2D"] * len(size.widths)
    down[1], up[-2] = "AttnDownBlock2D", "AttnUpBlock2D"
    return import_module("diffusers").UNet2DModel(
        sample_size=size.shape[1],
        in_channels=size.shape[0],
        out_channels=size.shape[0],
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=size.widths,
        layers_per_block=size.blocks,
        attention_head_dim=None,
        norm_num_groups=min(32, size.widths[0]),
    )


def azula_unet(size: Size) -> nn.Module:
    channels, features = size.shape[0], 4 * size.widths[0]
    encoding = import_module("azula.nn.layers").SineEncoding(features)
    net = import_module("azula.nn.unet").UNet(
        channels,
        channels,
        hid_channels=[5 * width // 4 for width in size.widths],
        hid_blocks=[size.blocks] * (len(size.widths) - 1) + [size.blocks + 1],
        mod_features=features,
    )
    return Function(lambda u, cond: net(u, encoding(cond)), net, encoding)


def own_loss(net: nn.Module, x: Tensor, fast: bool = False) -> Loss:
    """Denoising score matching over all σ."""
    model = as_score(net, x.shape[1:])
    loss = annealed(denoising, LogUniform(**ENDS), edm_weight(1.0))
    if fast:
        optimize(model, batch=len(x), train=True)
    return lambda: loss(model, x).mean()


def diffusers_loss(net: nn.Module, x: Tensor) -> Loss:
    """Prediction of the noise that DDPM's scheduler added, as in the library's examples."""
    scheduler: Any = import_module("diffusers").DDPMScheduler()

    def loss() -> Tensor:
        noise = torch.randn_like(x)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),), device=x.device)
        noisy = scheduler.add_noise(x, noise, t)
        return F.mse_loss(net(noisy, t, return_dict=False)[0], noise)

    return loss


def azula_loss(net: nn.Module, x: Tensor) -> Loss:
    denoiser = azula_denoiser(net)
    return lambda: denoiser.loss(x, torch.rand(len(x), device=x.device))


class PackageUNet(NamedTuple):
    """A package's network and its own loss."""

    build: Callable[[Size], nn.Module]
    loss: Callable[[nn.Module, Tensor], Loss]


UNETS = {
    OURS: PackageUNet(own_unet, own_loss),
    OPTIMIZED: PackageUNet(own_unet, partial(own_loss, fast=True)),
    "diffusers": PackageUNet(diffusers_unet, diffusers_loss),
    "azula": PackageUNet(azula_unet, azula_loss),
}
