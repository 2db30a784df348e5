"""Restoration in one call, and from file to file: the completions of what was measured.

    y = Ax + σ_y·n   ↦   n draws of x given y, their mean, their standard deviation

Which methods draw from the posterior, and which only near it, is in docs/restoration.md. Whatever
the method, a noiseless measurement ends with `A.project(x, y)`: known pixels come back as given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from . import images, inverse
from .checkpoint import load, read
from .data.picture import upright
from .disk import replace as write_file
from .draw import plan
from .inverse import LinearOperator
from .inverse.operators import measured
from .model import ScoreModel
from .noise import geometric, seeded
from .optimize import Choice, Precision, optimize
from .samplers import States, final
from .score import Score

Method = Literal["particle_filter", "pigdm", "dps", "replace", "algorithm2"]
Task = Literal["inpaint", "colorize", "super-resolve", "deblur"]

ROUNDING = 1 / (256 * 12**0.5)
"""The standard deviation of what 8 bits leave out."""


def restore(
    model: ScoreModel,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    n: int = 8,
    *,
    method: Method = "particle_filter",
    sigma_y: float = 0.0,
    steps: int | None = None,
    particles: int = 32,
    filters: int = 4,
    seed: int = 0,
    batch: int = 256,
    **options: Any,
) -> Float[Tensor, "rows n *shape"]:
    """Draw n completions of each measurement.

    Args:
        model: with a prior, where chains start.
        operator: A, as `inverse.mask(known)`.
        y: the measurements, a batch; y[None] of one.
        n: how many of each.
        method: a way of conditioning.
        sigma_y: the noise of y; with 0 each completion has Ax = y.
        steps: levels of the grid, 64 for the particle filter if not given, else as `plan` says.
        particles: of each particle filter.
        filters: of each measurement, n at most. Completions of one filter are akin, as many may
            descend from one particle; those of different filters are not.
        seed: same seed, same completions.
        batch: how many chains at once, but at least those of one measurement.
        options: of the method, as zeta=0.5 for "dps".
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: there are {', '.join(get_args(Method))}")
    if min(n, particles, filters, batch) < 1 or seed < 0:
        raise ValueError(
            f"n={n}, particles={particles}, filters={filters}, batch={batch}, seed={seed}: whole "
            "numbers of 1 or more, the seed of 0 or more"
        )
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: take at least one")
    measured(operator, y, sigma_y)
    if model.prior is None:
        raise ValueError("the model has no prior to start from: ScoreModel(..., prior=...)")
    model.eval()
    y = y.to(model.prior.mean)
    each, take, apart = n, 1, n
    if method == "particle_filter":
        apart = min(filters, n)
        take = -(-n // apart)
        options = {"each": max(particles, take), **options}
        each = apart * options["each"]
    rows, parts = max(1, batch // each), list[Tensor]()
    for first in range(0, len(y), rows):
        block = y[first : first + rows].repeat_interleave(each, 0)
        noise = seeded(seed, first=first * each)
        chain = _chain(model, operator, block, method, sigma_y, steps, noise, options)
        x = operator.project(final(chain), block) if sigma_y == 0 else final(chain)
        # of a filter, what descends from one particle stands side by side
        x = x.view(-1, apart, each // apart, *x.shape[1:])[:, :, :: each // apart // take]
        parts.append(x[:, :, :take].transpose(1, 2).flatten(1, 2)[:, :n])
    return torch.cat(parts)


def _chain(
    model: Any,
    operator: LinearOperator,
    y: Tensor,
    method: Method,
    sigma_y: float,
    steps: int | None,
    noise: Callable[[Tensor], Tensor],
    options: dict[str, Any],
) -> States:
    """The chains of one method, a row of y for each."""
    if method == "particle_filter":
        sigmas = model.round(geometric(model.sigma_max, model.sigma_min, max(steps or 64, 2)))
        x = model.prior.sample(len(y), sigmas[0], noise=noise)
        return inverse.particle_filter(
            model, x, sigmas, operator=operator, y=y, sigma_y=sigma_y, noise=noise, **options
        )
    if method == "algorithm2":
        if operator.known is None or sigma_y > 0:
            raise ValueError("method='algorithm2' is for noiseless masks: take 'particle_filter'")
        ladder = plan(model, "annealed_langevin", steps)
        x = model.prior.sample(len(y), ladder.sigmas[0], noise=noise)
        own = {name: value for name, value in ladder.options.items() if name != "denoise"}
        return inverse.algorithm2(
            model, x, ladder.sigmas.to(x), known=operator.known, y=y, noise=noise, **own | options
        )
    maps: dict[str, Callable[..., Score]] = {
        "pigdm": inverse.pigdm, "dps": inverse.dps, "replace": inverse.replace
    }  # fmt: skip
    if method == "pigdm":
        spread = model.prior.dense.diagonal().mean().sqrt().item()
        options = {"sigma_data": spread, **options}
    score = maps[method](model, operator, y, sigma_y=sigma_y, **options)
    planned = plan(model, None, steps)
    return planned.run(score, model.prior.sample(len(y), planned.sigmas[0], noise=noise), noise)


# ── From file to file ────────────────────────────────────────────────────────────────────────────


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
        "model": str(where), "trained": read(where).about, "image": str(image), "task": task,
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
    planned = plan(model, known if method == "algorithm2" else None, steps)
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
