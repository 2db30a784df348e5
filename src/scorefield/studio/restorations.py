"""Jobs of the view Restore: completions of a measured image as they form, with mean and spread."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor

from .. import inverse
from ..checkpoint import run_directory
from ..data import AUGMENTATION, Part, Source, all_samples
from ..data.decode import EncodedImage
from ..data.images import ImageReader
from ..data.sources import cell_centres
from ..fast import optimize
from ..inverse import LinearOperator
from ..noise import seeded
from ..restore import BIASES, BYTE_ROUNDING_STD, COSTS, Restoration, restoration, workload
from ..runs.own_plan import read_settings
from ..sample import require_prior
from ..train import derive_seed
from ..values import RestorationMethod
from .context import Studio
from .pictures import (
    MAX_GUIDANCE,
    MAX_STEPS,
    clock,
    command_line,
    image_decoder,
    open_run_data,
    to_bytes,
)
from .settings import MAX_SEED, Between, parse_settings
from .wire import Frame

MAX_COMPLETIONS = 64
COMPLETION_BATCH = 256
"""Batch of `restore`."""
STATES_SHOWN = 60
"""States of a restoration that are sent, evenly spaced."""
NO_MEASUREMENT = "Restoration needs a score of images with one or three channels: "
Operation = Literal["inpaint", "colorize", "super-resolve", "deblur"]


@dataclass(frozen=True)
class Measured:
    """Settings of a measurement: of which image, and of what of it."""

    heldout: int = 0
    upload: str | None = None
    file: str = "image.png"  # the upload's name on the user's disk
    task: Operation = "inpaint"
    mask: str = ""  # a hexadecimal number for each row, whose bits are the known pixels
    factor: int = 2
    sigma: Annotated[float, Between(1e-3, 100)] = 1.0  # of the blur
    noise: Annotated[float | None, Between(0, 10)] = None

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise."""
        usual = BYTE_ROUNDING_STD if self.task == "deblur" else 0.0
        return usual if self.noise is None else self.noise

    def operator(self, shape: torch.Size) -> LinearOperator:
        """Return A for images of a shape."""
        channels, height, width = shape
        if self.task == "inpaint":
            return inverse.mask(parse_mask(self.mask, height, width))
        if self.task == "colorize":
            if channels != 3:
                raise ValueError("task='colorize': the model's images are grey")
            return inverse.grayscale()
        if self.task == "deblur":
            return inverse.blur(self.sigma)
        if self.factor < 2 or height % self.factor or width % self.factor:
            raise ValueError(f"factor={self.factor}: it must divide {height} and {width}")
        return inverse.downsample(self.factor)


@dataclass(frozen=True)
class Completions(Measured):
    """Settings of completions of a measurement."""

    n: Annotated[int, Between(1, MAX_COMPLETIONS)] = 8
    method: RestorationMethod = "mmps"
    steps: Annotated[int | None, Between(1, MAX_STEPS)] = None
    particles: Annotated[int, Between(1, COMPLETION_BATCH)] = 32
    filters: Annotated[int, Between(1, MAX_COMPLETIONS)] = 4
    label: str | None = None
    guidance: Annotated[float, Between(-MAX_GUIDANCE, MAX_GUIDANCE)] = 1.0
    seed: Annotated[int, Between(0, MAX_SEED)] = 0


def parse_mask(rows: str, height: int, width: int) -> Tensor:
    """Return the known pixels, of which there is at least one, and one that is not."""
    try:
        bits = [[*f"{int(row, 16):0{width}b}"] for row in rows.split()]
        observed = torch.tensor([[*map(int, row)] for row in bits], dtype=torch.bool)
    except ValueError as error:
        raise ValueError(f"mask={rows!r:.80}: give a hexadecimal number for each row") from error
    if observed.shape != (height, width):
        raise ValueError(f"mask has shape {tuple(observed.shape)}: give one of {height} × {width}")
    if observed.all() or not observed.any():
        kind = "known" if observed.all() else "unknown"
        raise ValueError(f"All pixels are {kind}: paint over some of them")
    return observed


def image_shape(studio: Studio) -> torch.Size:
    """Return the shape of the images that the model can restore; other models are refused."""
    model = studio.model
    image_decoder(studio)
    shape = require_prior(model).mean.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{NO_MEASUREMENT}this model's samples are latents")
    if names := [name for name in model.condition_shapes if name != AUGMENTATION]:
        raise ValueError(f"{NO_MEASUREMENT}this model has the conditions {', '.join(names)}")
    if model.tuned:
        raise ValueError(f"{NO_MEASUREMENT}this model is tuned to consistency")
    return shape


def measured_image(studio: Studio, wanted: Measured) -> Tensor:
    """Return the image that is measured: an upload, or one that the run has held out."""
    shape = image_shape(studio)
    if wanted.upload is not None:
        if wanted.upload not in studio.uploads:
            raise ValueError(f"upload={wanted.upload!r:.80} is forgotten: drop the image again")
        file = EncodedImage(wanted.file, studio.uploads[wanted.upload])
        return cell_centres(image_reader(studio, shape)(file), 256)[None]
    test = heldout_images(studio)
    if not 0 <= wanted.heldout < len(test):
        raise ValueError(f"heldout={wanted.heldout}: give a number from 0 to {len(test) - 1}")
    return all_samples(Part(test, torch.tensor([wanted.heldout]))).cpu()


def heldout_images(studio: Studio) -> Source:
    """Return the images that the run has held out."""
    _, data = open_run_data(studio)
    if data.test is None:
        raise ValueError(f"{data.name} has nothing held out: drop an image")
    return data.test


def image_reader(studio: Studio, shape: torch.Size) -> ImageReader:
    """Return the reader of uploads, which cuts and scales them as the images of the training."""
    experiment = None if studio.run is None else read_settings(studio.run)
    options = experiment.data.options if experiment else {}
    channels, height, width = shape
    return ImageReader(channels, height, width, fit=options.get("fit", "crop"))


def measure(studio: Studio, wanted: Completions) -> tuple[Tensor, LinearOperator, Tensor]:
    """Return the image x, A and y = Ax + noise."""
    x = measured_image(studio, wanted)
    operator = wanted.operator(x.shape[1:])
    y = operator(x)
    if wanted.deviation > 0:
        y = y + wanted.deviation * seeded(derive_seed(wanted.seed, 1))(y)
    return x, operator, y


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────


def describe_restorations(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield what can be chosen: operators, and methods with their costs and measured errors."""
    parse_settings(Measured, settings)
    channels, height, width = shape = image_shape(studio)
    factors = [f for f in range(2, min(height, width)) if not (height % f or width % f)]
    tasks = [task for task in get_args(Operation) if task != "colorize" or channels == 3]
    try:
        count = len(heldout_images(studio))
    except (ValueError, OSError):  # uploads remain
        count = 0
    yield Frame(
        {
            "keep": True, "shape": [*shape], "heldout": count, "classes": [*studio.model.classes],
            "tasks": [task for task in tasks if task != "super-resolve" or factors],
            "factors": factors, "noise": {"deblur": BYTE_ROUNDING_STD},
            "methods": {name: describe_method(studio, name) for name in BIASES},
        }
    )  # fmt: skip


def describe_method(studio: Studio, name: RestorationMethod) -> dict[str, Any]:
    """Return a method's cost, by default, and its measured errors by kind of operator."""
    work = workload(studio.model, 1, name, None, 1, 1, 1)
    cost = COSTS.get(name)
    return {
        "calls": work.calls,
        "particles": cost is not None and cost.particles,
        "noiseless": name == "algorithm2" or (cost is not None and cost.noiseless),
        "biases": {
            kind: {**bias._asdict(), "largest": bias.largest} for kind, bias in BIASES[name].items()
        },
    }


def show_image(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield the image to measure, and what a measurement other than a mask leaves of it."""
    wanted = parse_settings(Measured, settings)
    x = measured_image(studio, wanted)
    arrays = {"image": to_bytes(x)[0]}
    if wanted.task != "inpaint":
        arrays["measured"] = to_bytes(show_measurement(wanted, wanted.operator(x.shape[1:]), x))[0]
    yield Frame({"keep": True}, arrays)


def show_measurement(wanted: Measured, operator: LinearOperator, x: Tensor) -> Tensor:
    """Return what is known of x as an image."""
    y = operator(x)
    return y if wanted.task == "deblur" else operator.project(torch.full_like(x, 0.5), y)


def restore_image(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Yield completions as they form, and at the end as `restore` returns them."""
    wanted = parse_settings(Completions, settings)
    x, operator, y = measure(studio, wanted)
    chains = completion_chains(studio, wanted, operator, y)
    interval, ends = -(-chains.work.states // STATES_SHOWN), list[Tensor]()
    step, seconds, before = 0, 0.0, 0.0
    for states in chains.parts:
        for state, own in clock(states):
            step, seconds = step + 1, before + own
            if step % interval:
                yield None
                continue
            clean = state.denoised
            if wanted.deviation == 0:
                clean = operator.project(clean, y)
            about = {"step": step, "of": chains.work.states, "sigma": state.sigma}
            yield completions_frame(chains, wanted, [*ends, clean], about | {"seconds": seconds})
        before = seconds
        ends.append(state.x)
    done = chains.join(ends)[0]
    last: dict[str, Any] = {"keep": True, "step": step, "of": step, "sigma": 0.0}
    if wanted.upload is None:
        gaps = (done.mean(0) - x[0], done - x)
        last["errors"] = [gap.square().mean().sqrt().item() for gap in gaps]
    yield frame_of_completions(done, [*range(len(done))], last | {"seconds": seconds})


def completion_chains(
    studio: Studio, wanted: Completions, operator: LinearOperator, y: Tensor
) -> Restoration:
    """Return the chains of `restore` with these settings."""
    chains = restoration(
        studio.model, operator, y, wanted.n, method=wanted.method, sigma_y=wanted.deviation,
        steps=wanted.steps, particles=wanted.particles, filters=wanted.filters, label=wanted.label,
        condition=None, guidance=wanted.guidance, seed=wanted.seed, batch=COMPLETION_BATCH,
    )  # fmt: skip
    optimize(studio.model, batch=chains.work.at_once, evaluations=chains.work.calls)
    return chains


def completions_frame(
    chains: Restoration, wanted: Completions, parts: list[Tensor], about: dict[str, Any]
) -> Frame:
    """Return the completions that there are so far; those of a group are apart in the result."""
    groups = torch.cat([chains.work.choose(part, wanted.n) for part in parts])
    places = [
        t * chains.work.groups + g for g in range(len(groups)) for t in range(groups.shape[1])
    ]
    few = [i for i, place in enumerate(places) if place < wanted.n]
    return frame_of_completions(groups.flatten(0, 1)[few], [places[i] for i in few], about)


def frame_of_completions(x: Tensor, places: list[int], about: dict[str, Any]) -> Frame:
    """Return completions with their mean, and the deviation of each pixel over the channels."""
    spread = x.std(0, correction=min(1, len(x) - 1)).mean(0)
    arrays = {
        "x": to_bytes(x),
        "mean": to_bytes(x.mean(0, keepdim=True))[0],
        "spread": spread.float().numpy(),
    }
    return Frame(about | {"places": places}, arrays)


# ── The same as code ─────────────────────────────────────────────────────────────────────────────


def write_restoration(settings: Mapping[str, Any], studio: Studio) -> dict[str, str | None]:
    """Return the Python that gives the same completions, and the command where there is one.

    The command reads the image and the mask that the page saves, so it is for bytes.
    """
    wanted = parse_settings(Completions, settings)
    x, operator, y = measure(studio, wanted)
    work = completion_chains(studio, wanted, operator, y).work
    names = ["operator", "y", str(wanted.n), f"method={wanted.method!r}"]
    options = {name: getattr(wanted, name) for name in changed_options(wanted)}
    names += [f"{name}={value!r}" for name, value in options.items()]
    if wanted.deviation > 0:
        names.append(f"sigma_y={wanted.deviation!r}")
    python = [
        *image_as_python(studio, wanted, x.shape[1:]),
        *operator_as_python(wanted, x.shape[-1]),
        "y = operator(x)",
        *noise_as_python(wanted),
        f"optimize(model, batch={work.at_once}, evaluations={work.calls})",
        f"x = restore(model, {', '.join(names)})[0]",
    ]
    command = None
    if wanted.task == "inpaint" and wanted.deviation == 0 and is_of_bytes(studio, wanted):
        flags = {"--task": "inpaint", "--mask": "mask.png", "-n": wanted.n}
        flags |= {"--method": wanted.method} | {f"--{name}": v for name, v in options.items()}
        command = command_line("restore", studio, flags | {"--device": "cpu"}, "image.png")
    return {"command": command, "python": "\n".join(python) + "\n"}


def changed_options(wanted: Completions) -> list[str]:
    """Return the names of the settings that differ from the defaults of `restore`."""
    usual = Completions()
    names = ("steps", "particles", "filters", "label", "guidance", "seed")
    return [name for name in names if getattr(wanted, name) != getattr(usual, name)]


def is_of_bytes(studio: Studio, wanted: Measured) -> bool:
    """Return True if the image has 256 levels, which a PNG keeps."""
    return wanted.upload is not None or heldout_images(studio).levels == 256


def image_as_python(studio: Studio, wanted: Measured, shape: torch.Size) -> list[str]:
    """Return the lines that load the model and the image x."""
    run = str(studio.run)
    lines = [
        "import torch",
        "from scorefield import inverse, load, restore, seeded",
        "from scorefield.fast import optimize",
    ]
    if wanted.upload is None:
        return [
            *lines,
            "from scorefield.data import Part, all_samples",
            "from scorefield.runs.resume import open_data",
            "",
            f"model = load({run!r})",
            f"test = open_data({str(run_directory(Path(run)))!r})[1].test",
            f"x = all_samples(Part(test, torch.tensor([{wanted.heldout}])))",
        ]
    reader = image_reader(studio, shape)
    arguments = f"{reader.channels}, {reader.height}, {reader.width}, fit={reader.fit!r}"
    return [
        *lines,
        "from scorefield.data.images import ImageReader",
        "from scorefield.data.sources import cell_centres",
        "",
        f"model = load({run!r})",
        f"x = cell_centres(ImageReader({arguments})({wanted.file!r}), 256)[None]",
    ]


def operator_as_python(wanted: Measured, width: int) -> list[str]:
    """Return the lines that make A."""
    if wanted.task == "inpaint":
        return [
            f"rows = {wanted.mask!r}.split()  # the bits of each row are its known pixels",
            f"bits = [[int(bit) for bit in f'{{int(row, 16):0{width}b}}'] for row in rows]",
            "operator = inverse.mask(torch.tensor(bits))",
        ]
    calls = {
        "colorize": "grayscale()",
        "super-resolve": f"downsample({wanted.factor})",
        "deblur": f"blur({wanted.sigma!r})",
    }
    return [f"operator = inverse.{calls[wanted.task]}"]


def noise_as_python(wanted: Completions) -> list[str]:
    """Return the lines that add the noise of the measurement."""
    if wanted.deviation == 0:
        return []
    seed = derive_seed(wanted.seed, 1)
    return [f"y = y + {wanted.deviation!r} * seeded({seed})(y)"]
