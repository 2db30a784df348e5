"""Files that commands read and write: models, measurements of images, and samples."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain, groupby, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from .. import disk, distributed, inverse
from ..checkpoint import load, read_tensors
from ..data import TABLE_FILE, Table
from ..data.decode import read_image
from ..model import ScoreModel
from ..runs import config
from ..runs.build import build_plan
from ..sample import Plan, make_plan, require_prior
from ..samplers import State, final
from ..show import images
from ..show.progress import progress

TEXT_TABLES = (".csv", ".tsv")
"""Suffixes of files that hold samples as rows of text."""
MAX_FRAMES = 60
"""Frames of an animation."""


def load_model(run: Path, device: str) -> tuple[ScoreModel, torch.Size]:
    """Load a model that can be sampled to this process's device; return it and its shape."""
    model = load(run).to(distributed.local_device(distributed.choose_device(device)))
    return model, require_prior(model).mean.shape


def describe_model(run: Path) -> dict[str, Any]:
    """Return what files of samples record about the model."""
    about = read_tensors(run).about
    return {"model": str(run), "trained": about, "scorefield": version("scorefield")}


def count_classes(model: ScoreModel, labels: Tensor | None) -> dict[str, int]:
    """Return how many samples there are of each class, in the order of the samples."""
    counts = enumerate([] if labels is None else labels.bincount().tolist())
    names = model.classes
    return {names[i] if names else str(i): count for i, count in counts if count}


def choose_plan(run: Path, model: ScoreModel, sampler: str | None, steps: int | None) -> Plan:
    """Return the run's own plan, unless another sampler is asked for."""
    directory = run if run.is_dir() else run.parent
    directory = directory.parent if directory.name == "checkpoints" else directory
    if (directory / "config.json").exists():
        return build_plan(model, config.read(directory / "config.json").sampling, sampler, steps)
    return make_plan(model, sampler, steps)


def track_chains(parts: Iterable[Iterable[State]], total: int, what: str) -> Iterator[Tensor]:
    """Yield the final samples, batch by batch, and show how many of all states are done."""
    numbered = ((i, state) for i, states in enumerate(parts) for state in states)
    for _, batch in groupby(progress(numbered, total, what), key=itemgetter(0)):
        yield final(state for _, state in batch)


def film(states: Iterable[State], total: int, frames: list[Image]) -> Iterator[State]:
    """Yield the states, and add pictures of at most `MAX_FRAMES` of them to the frames."""
    interval = -(-total // MAX_FRAMES)
    for i, state in enumerate(states, 1):
        if i % interval == 0 or i == total:
            frames.append(images.grid(state.x[:64]))
        yield state


def check_animation(path: Path, out: Path, shape: torch.Size) -> None:
    """Refuse a file for an animation that cannot be written, before the work."""
    reason = "this is --out: name another file" * (path == out)
    if path.suffix not in (".gif", ".png"):
        reason = "an animation is a .gif or a .png"
    elif len(shape) != 3:
        reason = "no images to animate"
    if reason:
        raise ValueError(f"--animate {path}: {reason}")
    images.check_place(path)


def find_operator(
    image: torch.Size, mask: Path | None, factor: int | None, sigma: float | None
) -> tuple[inverse.LinearOperator, tuple[int, ...]]:
    """Return A and the shape of y for images of a shape; without options A takes the colours."""
    channels, height, width = image
    if mask is not None:
        visible = read_pixels(mask, (1, height, width), "--mask") > 0.5
        if visible.all() or not visible.any():
            raise ValueError(
                f"--mask {mask}: it is all {'white' if visible.all() else 'black'}; known pixels "
                "are white (transparent counts as white), unknown ones black"
            )
        return inverse.mask(visible), image
    if factor is not None:
        if factor < 2 or height % factor or width % factor:
            raise ValueError(f"--factor {factor}: it must divide {height} and {width}, the model's")
        return inverse.downsample(factor), (channels, height // factor, width // factor)
    if sigma is not None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"--sigma {sigma}: give the blur's standard deviation, above 0")
        return inverse.blur(sigma), image
    if channels != 3:
        raise ValueError("--task colorize: this model's images are grey")
    return inverse.grayscale(), (1, height, width)


def read_pixels(
    path: Path, shape: tuple[int, ...], name: str
) -> Float[Tensor, "channels height width"]:
    """Read an image of this shape; the byte v becomes (v + ½)/256, and ⌊256x⌋ is v again."""
    channels, height, width = shape
    picture = read_image(path, "L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        raise ValueError(
            f"{name} {path} has {picture.width} × {picture.height} pixels, but this task needs "
            f"{width} × {height}: scale or crop it"
        )
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return (values.view(height, width, channels).permute(2, 0, 1).float() + 0.5) / 256


def choose_output(
    out: Path | None, run: Path, shape: torch.Size, overwrite: bool
) -> tuple[Path, Table | None]:
    """Return the file for samples, and the table whose rows they are."""
    table = Table.read(run) if (run / TABLE_FILE).exists() else None
    if out is None:
        suffix = "png" if len(shape) == 3 else "npy" if table is None else "csv"
        out = Path(f"samples.{suffix}")
    if out.suffix not in TEXT_TABLES:
        images.check_name(out, shape, overwrite)
    elif table is None or table.size != shape.numel():
        raise ValueError(f"{out}: {run} has no {TABLE_FILE} of its rows; write samples as .npy")
    else:
        images.check_place(out)
    return out, table


@contextmanager
def open_output(
    out: Path,
    n: int,
    shape: torch.Size,
    table: Table | None,
    about: dict[str, Any],
    overwrite: bool,
    cells: Mapping[str, str] | None = None,
) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that writes a batch of samples; only rank 0 writes.

    `cells` are the same in all rows of a table.
    """
    if not distributed.is_main():
        yield lambda x: None
    elif table is not None and out.suffix in TEXT_TABLES:
        header = chain([True], repeat(False))
        with disk.write_parts(out) as write:
            yield lambda x: write(
                table.text(x, [cells] * len(x) if cells else None, header=next(header)).encode()
            )
        images.write_about(out, about)
    else:
        with images.write_batches(out, n, shape, about, overwrite) as add:
            yield add


def write_completions(out: Path, x: Tensor, about: dict[str, Any], overwrite: bool) -> float:
    """Write completions of an image, their mean and spread; return the spread that is white."""
    for name in ("restored.npy", "restored.png", "completions"):
        images.write(out / name, x, about, overwrite)
    spread = x.std(0, correction=min(1, len(x) - 1)).mean(0, keepdim=True)
    white = spread.max().item()
    scaled = spread / max(white, 1e-12) * (255 / 256)
    for name, one in (("mean.png", x.mean(0)), ("std.png", scaled)):
        picture = images.picture(images.as_bytes(one[None])[0])
        disk.write_file(out / name, images.png(picture, about | {"white": white}))
    return white
