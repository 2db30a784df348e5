"""Jobs of the view Restore: completions of a measured image as they form, with mean and spread."""

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from .. import ScoreModel, seeded
from ..data import (
    AUGMENTATION,
    EncodedImage,
    ImageReader,
    Part,
    Source,
    all_samples,
    cell_centres,
)
from ..fast import optimize
from ..measurements import OPTIONS, ImageMeasurement
from ..restore import METHODS, Restoration, Workload, restoration, workload
from ..runs import read_settings
from ..show.images import picture
from ..values import RestorationTask
from .context import Studio
from .pictures import (
    MAX_GUIDANCE,
    MAX_STEPS,
    clock,
    image_decoder,
    open_run_data,
    to_bytes,
)
from .settings import MAX_SEED, Among, Between, parse_settings
from .wire import Frame
from .work import stoppable

MAX_COMPLETIONS = 64
MAX_ANGLES = 360
COMPLETION_BATCH = 256
"""Batch of `restore`."""
STATES_SHOWN = 60
"""States of a restoration that are sent, evenly spaced."""
NO_MEASUREMENT = "Restoration needs a score of images with one or three channels: "


@dataclass(frozen=True)
class Measured:
    """Settings of a measurement: of which image, and of what of it."""

    heldout: int = 0
    upload: str | None = None
    file: str = "image.png"  # the upload's name on the user's disk
    measured: bool = False  # the upload is the measurement
    task: RestorationTask = "inpaint"
    mask: str = ""  # a hexadecimal number for each row, whose bits are known pixels or frequencies
    factor: int = 2
    sigma: Annotated[float, Between(1e-3, 100)] = 1.0  # of the blur
    angles: Annotated[int, Between(1, MAX_ANGLES)] = 8
    noise: Annotated[float | None, Between(0, 10)] = None
    seed: Annotated[int, Between(0, MAX_SEED)] = 0


@dataclass(frozen=True)
class Completions(Measured):
    """Settings of completions of a measurement."""

    n: Annotated[int, Between(1, MAX_COMPLETIONS)] = 8
    method: Annotated[str, Among(*METHODS)] = "mmps"
    steps: Annotated[int | None, Between(1, MAX_STEPS)] = None
    particles: Annotated[int, Between(1, COMPLETION_BATCH)] = 32
    filters: Annotated[int, Between(1, MAX_COMPLETIONS)] = 4
    label: str | None = None
    guidance: Annotated[float, Between(-MAX_GUIDANCE, MAX_GUIDANCE)] = 1.0

    def options(self) -> dict[str, Any]:
        """Return the options of `restore`."""
        names = ("method", "steps", "particles", "filters", "label", "guidance", "seed")
        return {name: getattr(self, name) for name in names}

    def workload(self, model: ScoreModel) -> Workload:
        """Return how much `restore` computes."""
        return workload(
            model, self.n, self.method, self.steps, self.particles, self.filters, COMPLETION_BATCH
        )


def parse_mask(rows: str, shape: torch.Size) -> Tensor:
    """Return what is known, at least one pixel or frequency but not all."""
    _, height, width = shape
    try:
        bits = [[*f"{int(row, 16):0{width}b}"] for row in rows.split()]
        mask = torch.tensor([[*map(int, row)] for row in bits], dtype=torch.bool)
    except ValueError as error:
        raise ValueError(f"mask={rows!r:.80}: give a hexadecimal number for each row") from error
    if mask.shape != (height, width):
        raise ValueError(f"mask has shape {tuple(mask.shape)}: give one of {height} × {width}")
    if mask.all() or not mask.any():
        raise ValueError(f"The mask is all {'known' if mask.all() else 'hidden'}: paint over some")
    return mask


def image_shape(studio: Studio) -> torch.Size:
    """Return the shape of the images that the model can restore; other models are refused."""
    model = studio.model
    image_decoder(studio)
    shape = studio.prior.mean.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{NO_MEASUREMENT}this model's samples are latents")
    if names := [name for name in model.condition_shapes if name != AUGMENTATION]:
        raise ValueError(f"{NO_MEASUREMENT}this model has the conditions {', '.join(names)}")
    if model.tuned:
        raise ValueError(f"{NO_MEASUREMENT}this model is tuned to consistency")
    return shape


def measured_image(studio: Studio, wanted: Measured) -> Tensor:
    """Return the image that is measured: an upload, or one that the run has held out."""
    if wanted.upload is not None:
        file = EncodedImage(wanted.file, studio.find_upload(wanted.upload))
        return cell_centres(image_reader(studio)(file), 256)[None]
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


def image_reader(studio: Studio) -> ImageReader:
    """Return the reader of uploads, which cuts and scales them as the images of the training."""
    experiment = None if studio.run is None else read_settings(studio.run)
    options = experiment.data.options if experiment else {}
    channels, height, width = image_shape(studio)
    return ImageReader(channels, height, width, fit=options.get("fit", "crop"))


def measure(studio: Studio, wanted: Measured) -> tuple[ImageMeasurement, Tensor | None, Tensor]:
    """Return the measurement, the image x where it is known, and y."""
    shape, option, own = image_shape(studio), OPTIONS[wanted.task], dict[str, Any]()
    if option is not None:
        own[option] = getattr(wanted, option)
    key = wanted.task, wanted.noise, *own.values()
    stored = studio.cache.get("measurement", (None, None))
    if stored[0] != key:  # the operator may take seconds
        if option == "mask":
            own["mask"] = parse_mask(wanted.mask, shape)
        stored = key, ImageMeasurement(wanted.task, shape, noise=wanted.noise, **own)
        studio.cache["measurement"] = stored
    measurement: ImageMeasurement = stored[1]
    if wanted.measured:
        return measurement, None, read_upload(studio, wanted, measurement)
    x = measured_image(studio, wanted)
    return measurement, x, measurement.measure(x, wanted.seed)


def read_upload(studio: Studio, wanted: Measured, measurement: ImageMeasurement) -> Tensor:
    """Return the measurement that was uploaded."""
    if wanted.upload is None:
        raise ValueError("measured=True: drop a measurement, because held-out images are measured")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"measurement{Path(wanted.file).suffix}")
        path.write_bytes(studio.find_upload(wanted.upload))
        try:
            return measurement.read(path)
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), wanted.file)) from error


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────


def describe_restorations(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield what can be chosen: operators, and methods with their costs and measured errors."""
    parse_settings(Measured, settings)
    channels, height, width = shape = image_shape(studio)
    factors = [f for f in range(2, min(height, width)) if not (height % f or width % f)]
    possible = {"colorize": channels == 3, "super-resolve": factors, "radon": height == width}
    try:
        count = len(heldout_images(studio))
    except (ValueError, OSError):  # uploads remain
        count = 0
    yield Frame(
        {
            "keep": True, "shape": [*shape], "heldout": count, "classes": [*studio.model.classes],
            "free": not studio.model.always_labelled,  # as in `describe_pictures`
            "tasks": [task for task in OPTIONS if possible.get(task, True)], "factors": factors,
            "noise": {task: ImageMeasurement(task, shape).deviation for task in OPTIONS},
            "methods": {name: describe_method(studio, name) for name in METHODS},
        }
    )  # fmt: skip


def describe_method(studio: Studio, name: str) -> dict[str, Any]:
    """Return a method's cost, by default, and its measured errors by kind of operator."""
    work = workload(studio.model, 1, name, None, 1, 1, 1)
    own = METHODS[name]
    biases = {"mask": own.mask, "matrix": own.matrix}
    return {
        "calls": work.calls,
        "particles": own.particles,
        "noiseless": own.noiseless,
        "biases": {
            kind: {**bias._asdict(), "largest": bias.largest}
            for kind, bias in biases.items()
            if bias is not None
        },
    }


def show_image(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield the image to measure where it is known, what is painted on, and the measurement."""
    wanted = parse_settings(Measured, settings)
    measurement, x, y = measure(studio, wanted)
    shown = {"image": x, "measured": (guess := measurement.picture(y))}
    if wanted.task == "inpaint":
        shown = {"painted": guess if x is None else x}
    elif wanted.task == "fourier":
        waves = torch.fft.fft2(guess if x is None else x, norm="ortho")
        spectrum = torch.fft.fftshift(waves.abs().mean(1, keepdim=True).log1p(), (2, 3))
        shown["painted"] = spectrum / spectrum.max()
    elif wanted.task == "radon":
        shown["projections"] = y / y.abs().max().clamp(min=1e-9)
    yield Frame({"keep": True}, {k: to_bytes(v)[0] for k, v in shown.items() if v is not None})


def save_measurement(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield the files that the copied command reads."""
    wanted = parse_settings(Measured, settings)
    measurement, _, y = measure(studio, wanted)
    files = {} if wanted.measured else {"measurement.npy": measurement.file(y)}
    if measurement.mask is not None:
        picture(255 * measurement.mask[None].to(torch.uint8)).save(mask := io.BytesIO(), "PNG")
        files["mask.png"] = mask.getvalue()
    arrays = {name: np.frombuffer(content, np.uint8) for name, content in files.items()}
    yield Frame({"keep": True}, arrays)


def restore_image(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Yield completions as they form, and at the end as `restore` returns them."""
    wanted = parse_settings(Completions, settings)
    measurement, x, y = measure(studio, wanted)
    chains = completion_chains(studio, wanted, measurement, y)
    interval, ends = -(-chains.work.states // STATES_SHOWN), list[Tensor]()
    step, seconds, before = 0, 0.0, 0.0
    for states in chains.parts:
        for state, own in clock(states):
            step, seconds = step + 1, before + own
            if step % interval:
                yield None
                continue
            clean = measurement.project(state.denoised, y)
            about = {"step": step, "of": chains.work.states, "sigma": state.sigma}
            yield completions_frame(chains, wanted, [*ends, clean], about | {"seconds": seconds})
        before = seconds
        ends.append(state.x)
    done = chains.join(ends)[0]
    last: dict[str, Any] = {"keep": True, "step": step, "of": step, "sigma": 0.0}
    if x is not None:
        gaps = (done.mean(0) - x[0], done - x)
        last["errors"] = [gap.square().mean().sqrt().item() for gap in gaps]
    yield frame_of_completions(done, [*range(len(done))], last | {"seconds": seconds}, x)


def completion_chains(
    studio: Studio, wanted: Completions, measurement: ImageMeasurement, y: Tensor
) -> Restoration:
    """Return the chains of `restore` with these settings."""
    chains = restoration(
        studio.model, measurement.operator, y, wanted.n, stoppable_noise,
        sigma_y=measurement.deviation, condition=None, batch=COMPLETION_BATCH, **wanted.options(),
    )  # fmt: skip
    optimize(studio.model, batch=chains.work.at_once, evaluations=chains.work.calls)
    return chains


def stoppable_noise(seed: int, first: int) -> Callable[[Tensor], Tensor]:
    """Return the noise of `restore`, whose calls end a cancelled job."""
    return stoppable(seeded(seed, first=first))


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


def frame_of_completions(
    x: Tensor, places: list[int], about: dict[str, Any], truth: Tensor | None = None
) -> Frame:
    """Return completions, their mean, each pixel's deviation over the channels, and the truth."""
    spread = x.std(0, correction=min(1, len(x) - 1)).mean(0)
    arrays = {
        "x": to_bytes(x),
        "mean": to_bytes(x.mean(0, keepdim=True))[0],
        "spread": spread.float().numpy(),
    }
    if truth is not None:
        arrays["truth"] = to_bytes(truth)[0]
    return Frame(about | {"places": places}, arrays)
