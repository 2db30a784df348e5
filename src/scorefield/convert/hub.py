"""Models of the Hugging Face library `diffusers`: a `UNet2DModel` and its scheduler.

    DDPM         x_t = √ᾱ_t·y + √(1 − ᾱ_t)·z,  y = 2x − 1;   2σ_t = √((1 − ᾱ_t)/ᾱ_t)
    ScoreSdeVe   x_σ = x + σz;   the network's output is the score

The network stays theirs and is conditioned on a timestep (DDPM, DDIM) or σ. Its `prediction_type`
chooses the row of `precondition`, and σ_t comes from its own scheduler without rounding. Only
safetensors are read.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..disk import read_json
from ..model import ScoreModel
from ..precondition import Precondition, VPDiscrete
from ..values import import_extra
from .shared import Report, choose_size, uniform_prior

VARIANCE_EXPLODING = "ScoreSdeVeScheduler"

SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", VARIANCE_EXPLODING)
"""Supported schedulers; the first two have the same training and different samplers."""

PREDICTION_TYPES = {"epsilon": "noise", "v_prediction": "v", "sample": "clean"}
"""Our names of the `prediction_type` of a variance-preserving scheduler."""


def from_diffusers(
    path: str | Path,
    *,
    report: Callable[[str], None] = lambda line: None,
    image_size: int | tuple[int, int] | None = None,
) -> ScoreModel:
    """Build the model of a folder saved by `diffusers`; needs `pip install 'scorefield[hub]'`.

    If the network was trained with classes, condition on one by `model.given(label)`. The library's
    attention has first derivatives in reverse mode only, which suffice for guidance and
    likelihoods, but not for the objectives `exact` and `sliced`.

    Args:
        path: a pipeline of `UNet2DModel` and its scheduler, or the model's folder with
            `scheduler_config.json` in it or in `scheduler/`.
        report: called with a line for each value inferred from the configuration, or assumed.
        image_size: pixels a side, or (height, width), if the configuration does not contain it.
    """
    network, schedule, kind = find_folders(Path(path))
    _check_weights(network)
    unet = _load_weights("UNet2DModel", network)
    import diffusers

    scheduler = getattr(diffusers, kind).from_pretrained(schedule, local_files_only=True)
    size = unet.config.sample_size if image_size is None else image_size
    if size is None:
        raise ValueError(f"{network} does not contain the size of its images: give image_size")
    size = tuple(size) if isinstance(size, list) else size  # JSON has no tuples
    multiple = 1 << (len(unet.config.block_out_channels) - 1)
    shape = (unet.config.in_channels, *choose_size(size, 0, report, multiple=multiple))
    report(f"inferred: images of {' × '.join(map(str, shape))}, trained for {kind}")
    precondition = _read_precondition(scheduler, kind, report)
    return ScoreModel(_Network(unet), precondition, prior=uniform_prior(shape, report)).eval()


def read_autoencoder(path: Path) -> nn.Module:
    """Return the `AutoencoderKL` in a folder, as encode(x) and decode(z) of images in [0, 1]."""
    fix = "give the folder of an AutoencoderKL (vae)"
    _read_class(path / "config.json", ["AutoencoderKL"], fix)
    return _Autoencoder(_load_weights("AutoencoderKL", path))


class _Autoencoder(nn.Module):
    """An `AutoencoderKL`, whose images are in [−1, 1] and whose latents have a distribution."""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module

    def encode(self, x: Tensor) -> Tensor:
        """Return the mode of the latents."""
        z: Tensor = self.module.encode(2 * x - 1).latent_dist.mode()
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Return the images."""
        x: Tensor = (self.module.decode(z).sample + 1) / 2
        return x


class _Network(nn.Module):
    """F(x, cond, label) of a `UNet2DModel`."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, cond: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prediction, without the variances that some networks append to it."""
        output: Tensor = self.unet(x, cond, class_labels=label).sample
        return output[:, : x.shape[1]]


def find_folders(path: Path) -> tuple[Path, Path, str]:
    """Return the folders of the network and its scheduler, and the name of its class."""
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not a folder here: to download a model of the Hub, name it "
            "scorefield.load('hub:OWNER/NAME')"
        )
    root = path.parent if path.name == "unet" else path
    index = root / "model_index.json"
    parts = read_json(index) if index.is_file() else {}
    if others := {part for part in parts if part[:1] != "_"} - {"unet", "scheduler"}:
        raise ValueError(
            f"{root} is a pipeline with {', '.join(sorted(others))}: it does not denoise images"
        )
    unet = root / "unet" if (root / "unet").is_dir() else root
    fix = "only UNet2DModel is a score of images alone"
    _read_class(unet / "config.json", ["UNet2DModel"], fix)
    places = [root / "scheduler", unet, unet / "scheduler"]
    scheduler = next((p for p in places if (p / "scheduler_config.json").is_file()), places[0])
    fix = f"supported are {', '.join(SCHEDULERS)}"
    return unet, scheduler, _read_class(scheduler / "scheduler_config.json", SCHEDULERS, fix)


def _check_weights(unet: Path) -> None:
    weights = "diffusion_pytorch_model.safetensors"
    if not any((unet / f"{weights}{end}").is_file() for end in ("", ".index.json")):
        raise FileNotFoundError(
            f"{unet} has no {weights}. A pickle (.bin) may run code when loaded and is not read: "
            f"if you trust it, UNet2DModel.from_pretrained({str(unet)!r}, use_safetensors=False)"
            ".save_pretrained(...) writes a folder that can be read"
        )


def _read_class(path: Path, classes: Sequence[str], fix: str) -> str:
    """Return the class in a configuration, which must be one of some."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: give a folder with `unet` and `scheduler`, saved by diffusers"
        )
    name = str(read_json(path).get("_class_name"))
    if name not in classes:
        raise ValueError(f"{path.parent} contains a {name}: {fix}")
    return name


def _load_weights(kind: str, folder: Path) -> Any:
    """Load a module of the library from safetensors."""
    diffusers = import_extra("diffusers", "hub", str(folder))
    module, info = getattr(diffusers, kind).from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,  # True needs yet another library
        output_loading_info=True,
    )
    # the library would leave missing weights at random, and only log it
    if wrong := {fault: names for fault, names in info.items() if names}:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {wrong}")
    return module


def _read_precondition(scheduler: Any, kind: str, report: Report) -> Precondition:
    config = scheduler.config
    if kind == VARIANCE_EXPLODING:
        report(f"inferred: F is the score, σ from {config.sigma_max:.4g} to {config.sigma_min:.4g}")
        report("assumed: images in [0, 1], as in ScoreSdeVePipeline")
        return Precondition("score", "sigma", config.sigma_max, config.sigma_min)
    prediction = config.prediction_type
    if prediction not in PREDICTION_TYPES:
        supported = ", ".join(PREDICTION_TYPES)
        raise ValueError(f"prediction_type={prediction!r}: supported are {supported}")
    alpha_bar = scheduler.alphas_cumprod.double()
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt().flip(0)
    # with rescale_betas_zero_snr the last timestep is pure noise, σ = ∞
    levels = sigmas[sigmas.isfinite()]
    precondition = VPDiscrete(levels, predicts=PREDICTION_TYPES[prediction]).rescale()
    report(
        f"inferred: F is {prediction} at {len(alpha_bar)} timesteps, σ from "
        f"{precondition.sigma_max:.4g} to {precondition.sigma_min:.4g}"
    )
    report("assumed: the network's images are in [−1, 1], as in DDPMPipeline; ours in [0, 1]")
    return precondition
