"""Completions of images: of a measurement in a file, or of held-out samples next to the truth."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import disk
from ..fast import optimize
from ..inverse import nonlinear
from ..inverse.operators import Operator
from ..measurements import OPTIONS, ImageMeasurement, read_mask
from ..restore import restore, workload
from ..runs.own_plan import is_of_latents
from ..sample import class_number
from ..show import images
from ..values import import_object, quantity, spelling_hint
from . import files, options
from .given import check_label, refuse_conditions


def restore_images(
    run: Path,
    image: Path | None,
    n: int,
    out: Path,
    overwrite: bool,
    *,
    task: str | None,
    option: dict[str, Any],
    noise: float | None,
    peak: float | None,
    data: str | None,
    count: int,
    label: str | None,
    guidance: options.GuidanceOptions,
    seed: int,
    device: str,
    precision: options.PrecisionName,
    **size: Any,
) -> None:
    """Write n completions of a measured image, or of each of `count` held-out samples."""
    task = check_task(task, image, option)
    images.check_place(out / "completions", overwrite)
    model, shape, about = files.load_model(run, device)
    refuse_conditions(run, model)
    if is_of_latents(run):
        raise ValueError(f"{run}: its samples are latents, and a measurement is of images")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{run}: this is not a model of images with one or three channels")
    check_label(run, model, label)
    strength = files.read_guidance(guidance, device)
    number = None if label is None else int(class_number(model, label, strength))
    mask = option["mask"] and read_mask(option["mask"], shape)
    own: Any = task if task in OPTIONS else read_operator(task, shape)
    measurement = ImageMeasurement(own, shape, noise=noise, peak=peak, **option | {"mask": mask})
    truth = None
    if image is None:
        truth = files.read_held_out(run, data, count).to(model.device or "cpu")
        y = measurement.measure(truth, seed)
    else:
        y = measurement.read(image).to(model.device or "cpu")
    counts: dict[str, Any] = {} if peak is None else {"peak": peak}
    work = workload(model, n, rows=len(y), **size)
    choice = optimize(model, batch=work.at_once, evaluations=work.calls, precision=precision)
    print(f"computing: {choice}")
    x = restore(
        model, measurement.operator, y, n, sigma_y=measurement.deviation, label=number,
        guidance=strength, seed=seed, **size, **counts,
        watch=partial(files.track_chains, what="restoring"),
    )  # fmt: skip
    paths = {name: str(path) for name, path in (("image", image), ("data", data)) if path}
    about |= size | counts | paths | option | {
        "mask": option["mask"] and str(option["mask"]), "task": task, "n": n, "label": label,
        "noise": measurement.deviation, "guidance": 1.0, "seed": seed, "precision": precision,
    } | guidance.arguments()  # fmt: skip
    if truth is None:
        write_completions(out, x[0], about, overwrite)
    else:
        write_comparison(out, truth, measurement.picture(y), x, about)


def check_task(task: str | None, image: Path | None, option: dict[str, Any]) -> str:
    """Return the task; refuse one without its option, except for the mask of held-out samples."""
    if task is None and image is not None:
        *most, last = OPTIONS
        raise ValueError(f"an image needs --task: {', '.join(most)} or {last}")
    task = task or "inpaint"
    if task not in OPTIONS and ":" not in task:
        raise ValueError(f"--task {task}: {spelling_hint(task, OPTIONS)}, or MODULE:NAME")
    own = {str(name): option for name, option in OPTIONS.items()}.get(task)
    for name, value in option.items():
        if value is not None and name != own:
            raise ValueError(f"--task {task} has no --{name}")
    if own and option[own] is None and (image is not None or own != "mask"):
        raise ValueError(f"--task {task} needs --{own}")
    return task


def read_operator(name: str, shape: Sequence[int]) -> Operator:
    """Return the operator MODULE:NAME, which may also be a function of a batch of images."""
    function = import_object(name)
    if isinstance(function, torch.nn.Module):
        module = function.eval()
        function = lambda x: module.to(x.device)(x)  # noqa: E731
    y = function(torch.zeros(2, *shape)) if callable(function) else None
    if not isinstance(y, Tensor) or y.ndim < 2 or len(y) != 2:
        raise ValueError(
            f"--task {name}: give a function of a batch of images that returns a row of floats for "
            "each, or an operator of scorefield.inverse"
        )
    return function if isinstance(function, Operator) else nonlinear(function)


def write_completions(out: Path, x: Tensor, about: dict[str, Any], overwrite: bool) -> None:
    """Write completions of an image, their mean and spread, and print the spread that is white."""
    for name in ("restored.npy", "restored.png", "completions"):
        images.write(out / name, x, about, overwrite)
    spread = x.std(0, correction=min(1, len(x) - 1)).mean(0, keepdim=True)
    white = spread.max().item()
    scaled = spread / max(white, 1e-12) * (255 / 256)
    for name, one in (("mean.png", x.mean(0)), ("std.png", scaled)):
        picture = images.picture(images.as_bytes(one[None])[0])
        disk.write_file(out / name, images.png(picture, about | {"white": white}))
    print(f"wrote {quantity(len(x), 'completion')} into {out}")
    print(f"in std.png white is a deviation of {white:.3g}")


def write_comparison(
    out: Path, truth: Tensor, shown: Tensor, x: Tensor, about: dict[str, Any]
) -> None:
    """Write and print how completions compare with the truth; a row of the picture is a sample."""
    rows = torch.cat([truth[:, None], shown[:, None], x.mean(1, keepdim=True), x], dim=1)
    sheet = images.grid(rows.flatten(0, 1), columns=rows.shape[1])
    disk.write_file(out / "restored.png", images.png(sheet, about))
    for name, array in (("restored.npy", x), ("truth.npy", truth)):
        images.write(out / name, array, about)
    distances = ((z - truth[:, None]).square().mean().sqrt() for z in (x.mean(1, True), x))
    mean, single = (f"{distance:.3g}" for distance in distances)
    print(f"wrote {files.describe_completions(x.shape[1], len(x), 'held-out sample')} into {out}")
    print("a row of restored.png: the truth, the measurement, mean and completions")
    print(f"root mean square error of the means {mean}, of single completions {single}")
