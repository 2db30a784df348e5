"""Measurements of images: a task as an operator, as numbers, as a picture and as a file.

    y = Ax + noise

A file is an image, whose byte v is (v + ½)/256, or an .npy file of floats: of pixels, of
projections, or of a whole FFT with norm="ortho" and the mean in the centre.
"""

import io
import math
import sys
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from . import inverse
from .data.decode import read_image
from .data.numpy_files import open_rows
from .data.sources import cell_centres
from .inverse import LinearOperator
from .inverse.operators import Operator
from .noise import seeded
from .restore import BYTE_ROUNDING_STD
from .train import derive_seed
from .values import RestorationTask

OPTIONS: dict[RestorationTask, str | None] = {
    "inpaint": "mask",
    "colorize": None,
    "super-resolve": "factor",
    "deblur": "sigma",
    "fourier": "mask",
    "radon": "angles",
}
"""Tasks, each with the option that describes its measurement."""
ROW_SPACING = 3
"""Spacing of the measured rows of frequencies if there is no mask."""

GREY_STD = 12**-0.5
"""Standard deviation of a pixel that may have any value from 0 to 1."""


@dataclass(frozen=True, eq=False)
class ImageMeasurement:
    """A task with its option, or an operator of your own, on images of a shape.

    The mask is True for known pixels, by default the left half, or for known frequencies, by
    default every third row, with the mean in the centre as `np.fft.fftshift` puts it. `noise` is a
    standard deviation, by default 0; deblurring amplifies the rounding error of bytes, so that this
    is its default. With a `peak` A·x is counted before, Poisson(peak·Ax)/peak.
    """

    task: RestorationTask | Operator
    shape: Sequence[int]
    _: KW_ONLY
    mask: Bool[Tensor, "height width"] | None = None
    factor: int | None = None
    sigma: float | None = None
    angles: int | None = None
    noise: float | None = None
    peak: float | None = None

    def __post_init__(self) -> None:
        if self.peak is None:
            return
        if not 0 < self.peak < math.inf:
            raise ValueError(f"peak {self.peak}: give the photons of a value of 1, above 0")
        if self.task == "fourier":
            raise ValueError(f"peak {self.peak}: frequencies are not counted, leave it out")

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise."""
        usual = BYTE_ROUNDING_STD if self.task == "deblur" else 0.0
        return usual if self.noise is None else self.noise

    @cached_property
    def operator(self) -> Operator:
        """A."""
        if isinstance(self.task, Operator):
            return self.task
        channels, height, width = self.shape
        if self.task == "inpaint":
            return inverse.mask(self._mask())
        if self.task == "fourier":
            return inverse.fourier(self._frequencies())
        if self.task == "colorize":
            if channels != 3:
                raise ValueError("task colorize: the model's images are grey")
            return inverse.grayscale()
        if self.task == "deblur":
            if not 0 < (self.sigma or 0) < math.inf:
                raise ValueError(f"sigma {self.sigma}: give the blur's deviation, above 0")
            return inverse.blur(self.sigma or 0)
        if self.task == "radon":
            if height != width:
                raise ValueError(
                    f"task radon needs square images, but the model's have {width} × {height} "
                    "pixels"
                )
            return inverse.radon(self.angles or 0, height)
        factor = self.factor or 0
        if factor < 2 or height % factor or width % factor:
            raise ValueError(f"factor {factor}: it must divide {height} and {width}, the model's")
        return inverse.downsample(factor)

    def _mask(self) -> Bool[Tensor, "height width"]:
        _, height, width = self.shape
        if self.mask is not None:
            return self.mask
        if self.task == "inpaint":
            return (torch.arange(width) < width // 2).expand(height, width)
        rows = torch.arange(height) - height // 2
        return (rows % ROW_SPACING == 0)[:, None].expand(height, width)

    def _frequencies(self) -> Bool[Tensor, "height width"]:
        """Return which frequencies are known in the order of the FFT."""
        mask: Tensor = torch.fft.ifftshift(self._mask())
        return mask

    @torch.no_grad()
    def measure(
        self, x: Float[Tensor, "batch channels height width"], seed: int = 0
    ) -> Float[Tensor, "batch *measured"]:
        """Return y = Ax + noise."""
        y = self.operator(x)
        if self.peak is not None:
            generator = torch.Generator().manual_seed(derive_seed(seed, 2))
            rate = self.peak * y.cpu().clamp(min=0)
            y = torch.poisson(rate, generator).to(y) / self.peak
        return y + self.deviation * seeded(derive_seed(seed, 1))(y) if self.deviation else y

    def project(
        self, x: Float[Tensor, "batch channels height width"], y: Float[Tensor, "rows *measured"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the nearest images to x with Ax = y; x if y has noise or A is nonlinear."""
        if self.deviation or not isinstance(self.operator, LinearOperator):
            return x
        return self.operator.project(x, y)

    def picture(
        self, y: Float[Tensor, "batch *measured"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the part of the images that y determines, and grey elsewhere.

        With noise it is the mean of x given y if pixels were N(½, 1/12), independent. Of a
        nonlinear operator it is y, if that has the shape of an image.
        """
        operator, grey = self.operator, y.new_full((len(y), *self.shape), 0.5)
        if self.task == "deblur" or not isinstance(operator, LinearOperator):
            return y if y.shape == grey.shape else grey
        if self.deviation == 0:
            return self.project(grey, y)
        gap = operator.solve(operator.gap(y, grey), self.deviation, GREY_STD)
        return grey + GREY_STD**2 * operator.adjoint(gap)

    def read(self, path: str | Path) -> Float[Tensor, "1 *measured"]:
        """Read y, an image or an array."""
        path = Path(path)
        measured = self.operator(torch.zeros(1, *self.shape)).shape[1:]
        if self.task == "fourier":
            waves = self._read_array(path, self.shape, "complex64")
            y: Tensor = torch.fft.ifftshift(waves, (1, 2))[None, :, self._frequencies()]
            return y
        pictured = len(measured) == 3 and measured[0] in (1, 3) and self.task != "radon"
        if not pictured or path.suffix.lower() == ".npy":
            return self._read_array(path, measured, "float32")[None]
        return read_pixels(path, measured)[None]

    def file(self, y: Float[Tensor, "1 *measured"]) -> bytes:
        """Return the content of an .npy file from which `read` returns y."""
        values = y[0]
        if self.task == "fourier":
            waves = torch.zeros(*self.shape, dtype=torch.complex64)
            waves[:, self._frequencies()] = torch.view_as_complex(y[0].contiguous())
            values = torch.fft.fftshift(waves, (1, 2))
        np.save(content := io.BytesIO(), values.numpy(), allow_pickle=False)
        return content.getvalue()

    def _read_array(self, path: Path, shape: Sequence[int], kind: str) -> Tensor:
        """Read an array of this shape and kind as floats; a complex number is two of them.

        One channel needs no dimension.
        """
        numbers = "complex numbers" if kind == "complex64" else "numbers"
        task = f"task {self.task}" if isinstance(self.task, str) else "your operator"
        wanted = f"{task} needs an .npy file of {' × '.join(map(str, shape))} {numbers}"

        def arrange(values: NDArray[Any]) -> NDArray[Any]:
            if not np.can_cast(values.dtype, kind, "same_kind"):
                raise ValueError(f"{path} holds {values.dtype}: {wanted}")
            if values.shape not in ((*shape,), (*shape[shape[0] == 1 :],)):
                raise ValueError(f"{path} has the shape {values.shape}: {wanted}")
            floats = values.astype(kind).reshape(1, *shape, 1).view("float32")
            return floats if kind == "complex64" else floats[..., 0]

        return open_rows(path, arrange, sys.maxsize).take(torch.tensor([0]))[0][0]


def read_mask(path: Path, shape: Sequence[int]) -> Bool[Tensor, "height width"]:
    """Read the mask of images of a shape: what is known is white."""
    mask = read_pixels(path, (1, *shape[1:]))[0] > 0.5
    if mask.all() or not mask.any():
        raise ValueError(
            f"{path}: it is all {'white' if mask.all() else 'black'}; what is known is white "
            "(transparent counts as white), the rest black"
        )
    return mask


def read_pixels(path: Path, shape: Sequence[int]) -> Float[Tensor, "channels height width"]:
    """Read an image of this shape; the byte v becomes (v + ½)/256, and ⌊256x⌋ is v again."""
    channels, height, width = shape
    picture = read_image(path, "L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        raise ValueError(
            f"{path} has {picture.width} × {picture.height} pixels, but this task needs "
            f"{width} × {height}: scale or crop it"
        )
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return cell_centres(values.view(height, width, channels).permute(2, 0, 1), 256)
