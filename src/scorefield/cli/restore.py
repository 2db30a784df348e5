"""Restore an image file: the completions of what was measured, written into a directory."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .. import inverse
from ..checkpoint import load, read_stored
from ..data.picture import upright
from ..disk import write_file
from ..fast.optimize import Choice, Precision, optimize
from ..inverse import LinearOperator
from ..model import ScoreModel
from ..restore import Method, restore
from ..sample import make_plan
from ..show import images

Task = Literal["inpaint", "colorize", "super-resolve", "deblur"]

ROUNDING = 1 / (256 * 12**0.5)
"""Standard deviation of the rounding error of 8-bit values."""


def restore_image(
    where: Path,
    image: Path,
    *,
    task: Task,
    out: Path,
    mask: Path | None = None,
    factor: int | None = None,
    blur: float | None = None,
    sigma_y: float | None = None,
    n: int = 8,
    device: torch.device | str = "cpu",
    precision: Precision = "auto",
    **options: Any,
) -> None:
    """What `scorefield restore` does: the completions of an image file, into a directory."""
    model = load(where).to(device)
    if model.shape is None or len(model.shape) != 3 or model.shape[0] not in (1, 3):
        raise ValueError(f"{where}: this is no model of images of one or three channels")
    operator, shape = _measurement(model.shape, task, mask, factor, blur)
    if sigma_y is None:  # 8 bits are noise where inverting A would make much of it
        sigma_y = ROUNDING if task == "deblur" else 0.0
    y = _pixels(image, shape, "IMAGE")[None].to(device)
    print(f"computing: {_optimized(model, n, precision, **options)}")
    x = restore(model, operator, y, n, sigma_y=sigma_y, **options)[0]
    about = {
        "model": str(where), "trained": read_stored(where).about, "image": str(image), "task": task,
        "mask": mask and str(mask), "factor": factor, "blur": blur, "sigma_y": sigma_y, "n": n,
        "precision": precision, **options, "scorefield": version("scorefield"),
    }  # fmt: skip
    images.write(out / "restored.npy", x, about)
    images.write(out / "restored.png", x, about)
    images.write(out / "completions", x, about)
    _write_one(out / "mean.png", x.mean(0), about)
    spread = x.std(0, correction=min(1, n - 1)).mean(0, keepdim=True)
    white = spread.max().item()
    _write_one(out / "std.png", spread / max(white, 1e-12) * (255 / 256), {**about, "white": white})
    print(f"wrote {n} completions into {out}: restored.png and .npy, completions/, mean.png,")
    print(f"std.png, where white is a standard deviation of {white:.3g}")


def _optimized(
    model: ScoreModel,
    n: int,
    precision: Precision = "auto",
    method: Method = "particle_filter",
    steps: int | None = None,
    particles: int = 32,
    filters: int = 4,
    batch: int = 256,
    **_: Any,
) -> Choice:
    """Let the model compute in the way that pays for so many chains."""
    filtered, known = method == "particle_filter", "annealed_langevin"
    chains = max(n, min(filters, n) * particles) if filtered else n
    planned = make_plan(model, known if method == "algorithm2" else None, steps)
    evaluations = max(steps or 64, 2) if filtered else planned.evaluations
    calls = -(-chains // batch) * evaluations
    return optimize(model, batch=min(chains, batch), evaluations=calls, precision=precision)


def _measurement(
    shape: torch.Size, task: Task, mask: Path | None, factor: int | None, blur: float | None
) -> tuple[LinearOperator, tuple[int, ...]]:
    """A, and the shape of y."""
    channels, height, width = shape
    needs = {
        "inpaint": ("mask", mask),
        "super-resolve": ("factor", factor),
        "deblur": ("blur", blur),
    }
    for name, (option, value) in needs.items():
        option = "sigma" if option == "blur" else option
        if (task == name) != (value is not None):
            kind = "needs" if task == name else "has no"
            raise ValueError(f"--task {task} {kind} --{option}")
    if mask is not None:
        known = _pixels(mask, (1, height, width), "--mask") > 0.5
        if known.all() or not known.any():
            raise ValueError(
                f"--mask {mask}: white is known and black is not, and "
                "transparent counts as white; it is all of one"
            )
        return inverse.mask(known), (channels, height, width)
    if factor is not None:
        if factor < 2 or height % factor or width % factor:
            raise ValueError(f"--factor {factor}: it must divide {height} and {width}, the model's")
        return inverse.downsample(factor), (channels, height // factor, width // factor)
    if blur is not None:
        if not 0 < blur < math.inf:
            raise ValueError(
                f"--sigma {blur}: give the blur's standard deviation in pixels, above 0"
            )
        return inverse.blur(blur), (channels, height, width)
    if channels != 3:
        raise ValueError("--task colorize: this model's images are grey")
    return inverse.grayscale(), (1, height, width)


def _pixels(
    path: Path, shape: tuple[int, ...], name: str
) -> Float[Tensor, "channels height width"]:
    """An image file of this shape, the byte v as (v + ½)/256, of which ⌊256x⌋ is v again."""
    channels, height, width = shape
    picture = upright(path, "L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        raise ValueError(
            f"{name} {path} has {picture.width} × {picture.height} pixels, but this task needs "
            f"{width} × {height}: scale or crop it"
        )
    bytes_ = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return (bytes_.view(height, width, channels).permute(2, 0, 1).float() + 0.5) / 256


def _write_one(
    path: Path, x: Float[Tensor, "channels height width"], about: dict[str, Any]
) -> None:
    write_file(path, images.png(images.picture(images.as_bytes(x[None])[0]), about))
