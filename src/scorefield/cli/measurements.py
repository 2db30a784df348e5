"""Measurements of images that `restore` takes: a task with its option, its operator, its file."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from .. import inverse
from ..data.decode import read_image
from ..data.numpy_files import open_rows

OPTIONS = {
    "inpaint": "mask",
    "colorize": None,
    "super-resolve": "factor",
    "deblur": "sigma",
    "fourier": "mask",
    "radon": "angles",
}
"""Tasks, each with the option that describes its measurement."""
ROW_SPACING = 3
"""Of the rows of frequencies, every third is measured if there is no mask."""


def check_task(task: str | None, image: Path | None, measurement: dict[str, object]) -> str:
    """Return the task; refuse one without its option, except for the mask of held-out samples."""
    if task is None and image is not None:
        *most, last = OPTIONS
        raise ValueError(f"an image needs --task: {', '.join(most)} or {last}")
    task = task or "inpaint"
    own = OPTIONS[task]
    for option, value in measurement.items():
        if value is not None and option != own:
            raise ValueError(f"--task {task} has no --{option}")
    if own and measurement[own] is None and (image is not None or own != "mask"):
        raise ValueError(f"--task {task} needs --{own}")
    return task


def find_operator(
    image: torch.Size,
    task: str,
    mask: Path | None,
    factor: int | None,
    sigma: float | None,
    angles: int | None,
) -> inverse.LinearOperator:
    """Return A for images of a shape."""
    channels, height, width = image
    if task == "colorize" and channels != 3:
        raise ValueError("--task colorize: this model's images are grey")
    if task == "colorize":
        return inverse.grayscale()
    if sigma is not None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"--sigma {sigma}: give the blur's standard deviation, above 0")
        return inverse.blur(sigma)
    if factor is not None:
        if factor < 2 or height % factor or width % factor:
            raise ValueError(f"--factor {factor}: it must divide {height} and {width}, the model's")
        return inverse.downsample(factor)
    if angles is not None:
        if height != width:
            raise ValueError(
                f"--task radon needs square images, but this model's have {width} × {height} pixels"
            )
        return inverse.radon(angles, height)
    if task == "fourier":
        return inverse.fourier(_measured_frequencies(mask, height, width))
    if mask is None:
        return inverse.mask((torch.arange(width) < width // 2).expand(1, height, width))
    return inverse.mask(_read_mask(mask, height, width))


def read_measurement(
    path: Path,
    task: str,
    shape: torch.Size,
    operator: inverse.LinearOperator,
    mask: Path | None,
) -> Float[Tensor, "*measured"]:
    """Read y: pixels, frequencies of a centred FFT with norm="ortho", or projections."""
    measured = operator(torch.zeros(1, *shape)).shape[1:]
    if task == "radon":
        return _read_array(path, task, measured, "float32")
    if task == "fourier":
        _, height, width = shape
        waves: Tensor = torch.fft.ifftshift(_read_array(path, task, shape, "complex64"), (1, 2))
        return waves[:, _measured_frequencies(mask, height, width)]
    return _read_pixels(path, measured, "IMAGE")


def _measured_frequencies(mask: Path | None, height: int, width: int) -> Bool[Tensor, "h w"]:
    """Return which frequencies are measured in the order of the FFT; a mask has the mean central.

    Without a mask it is every third row of frequencies, with that of the mean.
    """
    if mask is None:
        frequency: Tensor = (torch.fft.fftfreq(height) * height).round().long().abs()
        return (frequency % ROW_SPACING == 0)[:, None].expand(height, width)
    observed: Tensor = torch.fft.ifftshift(_read_mask(mask, height, width)[0])
    return observed


def _read_mask(path: Path, height: int, width: int) -> Bool[Tensor, "1 height width"]:
    visible = _read_pixels(path, (1, height, width), "--mask") > 0.5
    if visible.all() or not visible.any():
        raise ValueError(
            f"--mask {path}: it is all {'white' if visible.all() else 'black'}; what is known is "
            "white (transparent counts as white), the rest black"
        )
    return visible


def _read_pixels(
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


def _read_array(path: Path, task: str, shape: tuple[int, ...], kind: str) -> Tensor:
    """Read an array of this shape and kind as floats; a complex number is two of them.

    One channel needs no dimension.
    """
    numbers = "complex numbers" if kind == "complex64" else "numbers"
    wanted = f"--task {task} needs an .npy file of {' × '.join(map(str, shape))} {numbers}"

    def arrange(values: NDArray[Any]) -> NDArray[Any]:
        if not np.can_cast(values.dtype, kind, "same_kind"):
            raise ValueError(f"IMAGE {path} holds {values.dtype}: {wanted}")
        if values.shape not in (shape, shape[1:] if shape[0] == 1 else shape):
            raise ValueError(f"IMAGE {path} has the shape {values.shape}: {wanted}")
        floats = values.astype(kind).reshape(1, *shape, 1).view("float32")
        return floats if kind == "complex64" else floats[..., 0]

    return open_rows(path, arrange, sys.maxsize).take(torch.tensor([0]))[0][0]
