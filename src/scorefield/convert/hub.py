"""Models of the Hugging Face library `diffusers` as ours: a `UNet2DModel` and its scheduler.

    DDPM         x_t = √ᾱ_t·y + √(1 − ᾱ_t)·z,  y = 2x − 1;   2σ_t = √((1 − ᾱ_t)/ᾱ_t)
    ScoreSdeVe   x_σ = x + σz;   the network's output is the score

The network is theirs, told a timestep (DDPM, DDIM) or σ; its `prediction_type` chooses the row of
`precondition`, and the σ_t are those of its own scheduler, digit by digit. Nothing is downloaded,
and only safetensors are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model import ScoreModel
from ..precondition import (
    CleanDiscrete,
    Plain,
    Precondition,
    Rescaled,
    VPDiscrete,
    VPredictionDiscrete,
)
from ..prior import Prior
from .shared import image_size as checked_size

VARIANCE_PRESERVING = ("DDPMScheduler", "DDIMScheduler")
"""Trained alike: a sampler apart, they say the same."""

VARIANCE_EXPLODING = "ScoreSdeVeScheduler"

ROWS: dict[str, Callable[[Tensor], Precondition]] = {
    "epsilon": VPDiscrete,
    "v_prediction": VPredictionDiscrete,
    "sample": CleanDiscrete,
}
"""What a network of the first kind predicts."""


def from_diffusers(
    path: str | Path,
    *,
    report: Callable[[str], None] = lambda line: None,
    image_size: int | tuple[int, int] | None = None,
) -> ScoreModel:
    """The model of a folder that `diffusers` has saved; needs `pip install 'scorefield[hub]'`.

    Classes, if it was trained with any, are told by `model.given(label)`. The library's attention
    has first derivatives in reverse mode only: guides and likelihoods can do with them, the
    objectives `exact` and `sliced` cannot.

    Args:
        path: a pipeline of `UNet2DModel` and its scheduler, or the model's folder with
            `scheduler_config.json` in it or in `scheduler/`.
        report: called with a line for each thing read off the configuration, or assumed.
        image_size: pixels a side, or (height, width), if the configuration does not tell.
    """
    parts = _find(Path(path))
    unet, scheduler = _load(parts)
    shape = (unet.config.in_channels, *_size(parts, unet, image_size))
    report(
        f"inferred: images of {' × '.join(map(str, shape))}, trained for {parts.scheduler_class}"
    )
    precondition = _precondition(parts, scheduler, report)
    report("assumed: the prior has the moments of uniform pixels, ½ and 1/12 for each")
    prior = Prior(torch.full(shape, 0.5), torch.tensor(1 / 12))
    return ScoreModel(_Network(unet), precondition, prior=prior).eval()


def _size(parts: _Parts, unet: Any, given: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width, which the network halves between its levels and could not put back."""
    size = unet.config.sample_size if given is None else given
    if size is None:
        raise ValueError(f"{parts.unet} does not tell the size of its images: give image_size")
    height, width = (size, size) if isinstance(size, int) else size
    multiple = 1 << (len(unet.config.block_out_channels) - 1)
    if checked_size(height) % multiple or checked_size(width) % multiple:
        raise ValueError(
            f"image_size={size}: give a multiple of {multiple}, for the network halves it"
        )
    return height, width


class _Network(nn.Module):
    """F(x, cond, label) of a `UNet2DModel`."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, cond: Tensor, label: Tensor | None = None) -> Tensor:
        """Without the variances that some predict beside it."""
        output: Tensor = self.unet(x, cond, class_labels=label).sample
        return output[:, : x.shape[1]]


# ── Files ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Parts:
    """Where a folder has its two halves."""

    unet: Path
    scheduler: Path
    scheduler_class: str


def _find(path: Path) -> _Parts:
    """The halves of a pipeline, also if it is its network that is pointed at."""
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not a folder here, and nothing is downloaded: fetch the model first, for "
            "instance with `hf download NAME --local-dir FOLDER`"
        )
    root = path.parent if path.name == "unet" else path
    _check_pipeline(root / "model_index.json")
    unet = root / "unet" if (root / "unet").is_dir() else root
    model = _json(unet / "config.json").get("_class_name")
    if model != "UNet2DModel":
        raise ValueError(f"{unet} holds a {model}: only UNet2DModel is a score of images alone")
    _check_weights(unet)
    places = [root / "scheduler", unet, unet / "scheduler"]
    scheduler = next((p for p in places if (p / "scheduler_config.json").is_file()), places[0])
    name = _json(scheduler / "scheduler_config.json").get("_class_name")
    known = (*VARIANCE_PRESERVING, VARIANCE_EXPLODING)
    if name not in known:
        raise ValueError(
            f"{scheduler} holds a {name}, whose noise levels are not known here: they are of "
            f"{', '.join(known)}"
        )
    return _Parts(unet, scheduler, str(name))


def _check_pipeline(index: Path) -> None:
    if not index.is_file():
        return
    others = {part for part in _json(index) if not part.startswith("_")} - {"unet", "scheduler"}
    if others:
        raise ValueError(
            f"{index.parent} is a pipeline with {', '.join(sorted(others))} beside the network: "
            "what that denoises are not images"
        )


def _check_weights(folder: Path) -> None:
    name = "diffusion_pytorch_model"
    if any((folder / f"{name}.safetensors{end}").is_file() for end in ("", ".index.json")):
        return
    pickled = [path.name for path in sorted(folder.glob("*.bin"))]
    if pickled:
        raise ValueError(
            f"{folder} has its weights in {', '.join(pickled)} alone, a pickle, which may run code "
            f"when loaded. If you trust it: UNet2DModel.from_pretrained({str(folder)!r}, "
            "use_safetensors=False).save_pretrained(...), and give that folder"
        )
    raise FileNotFoundError(f"{folder} has no weights: {name}.safetensors is missing")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing: give a folder saved by diffusers, `unet` and `scheduler` in it"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not the configuration of anything: it holds {content!r:.40}")
    return content


def _load(parts: _Parts) -> tuple[Any, Any]:
    """The network and the scheduler as the library makes them."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            "models of diffusers need that library: pip install 'scorefield[hub]'"
        ) from error
    unet, loaded = diffusers.UNet2DModel.from_pretrained(  # type: ignore[no-untyped-call]
        parts.unet,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,  # True needs yet another library
        output_loading_info=True,
    )
    # the library would leave what is missing at random, and say so in a log
    wrong = {fault: names for fault, names in loaded.items() if names}
    if wrong:
        raise ValueError(f"the weights in {parts.unet} are not those of its config.json: {wrong}")
    scheduler = getattr(diffusers, parts.scheduler_class).from_pretrained(
        parts.scheduler, local_files_only=True
    )
    return unet, scheduler


# ── Noise levels ─────────────────────────────────────────────────────────────────────────────────


def _precondition(parts: _Parts, scheduler: Any, report: Callable[[str], None]) -> Precondition:
    config = scheduler.config
    if parts.scheduler_class == VARIANCE_EXPLODING:
        report(f"inferred: F is the score, σ from {config.sigma_max:.4g} to {config.sigma_min:.4g}")
        report("assumed: images in [0, 1], as in ScoreSdeVePipeline")
        return Plain(config.sigma_max, config.sigma_min)
    kind = config.prediction_type
    if kind not in ROWS:
        raise ValueError(
            f"{parts.scheduler} says prediction_type={kind!r}: known are {', '.join(ROWS)}"
        )
    kept = scheduler.alphas_cumprod.double()
    sigmas = ((1 - kept) / kept).sqrt().flip(0)
    # with rescale_betas_zero_snr the last timestep is noise alone, σ = ∞
    row = Rescaled(ROWS[kind](sigmas[sigmas.isfinite()]))
    report(
        f"inferred: F is {kind} at {len(kept)} timesteps, σ from {row.sigma_max:.4g} to "
        f"{row.sigma_min:.4g}"
    )
    report("assumed: the network's images are in [−1, 1], as in DDPMPipeline; ours in [0, 1]")
    return row
