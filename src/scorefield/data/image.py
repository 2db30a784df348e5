"""One image file as 8-bit pixels, in any format that Pillow decodes itself; errors name the file.

Orientation follows EXIF; 16 bits become 8, round(v/257); transparency is laid over white; palettes,
CMYK and others become RGB; the central square is cut out and scaled by Lanczos.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

EXCLUDED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "ICNS", "ICO", "MPEG", "WMF"}
"""Formats that Pillow does not decode itself (for EPS it would run Ghostscript), and icons, which
hold an image of any size."""
MAX_PIXELS = 2**24
"""Number of pixels above which a file must hold at least one byte for `MAX_PIXELS_PER_BYTE`."""
MAX_PIXELS_PER_BYTE = 100


@dataclass(frozen=True)
class EncodedImage:
    """An image file inside another file."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


ImageFile: TypeAlias = str | Path | EncodedImage
"""Source of an image; its string is its name in errors."""


@cache
def image_formats() -> tuple[str, ...]:
    """Return the formats that are read."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in EXCLUDED_FORMATS)


@cache
def image_suffixes() -> frozenset[str]:
    """Return the file extensions of these formats, in lower case."""
    extensions = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in extensions if name in image_formats())


def read_header(file: ImageFile) -> tuple[int, int, bool]:
    """Return width and height of an image, upright, and if it is grey, without decoding it."""
    with _open(file) as image:
        turned = image.getexif().get(0x0112, 1) >= 5  # by a quarter turn, perhaps mirrored
        width, height = image.size[::-1] if turned else image.size
        return width, height, Image.getmodebase(image.mode) == "L"


def read_image(file: ImageFile, mode: Literal["L", "RGB"]) -> Image.Image:
    """Return an 8-bit image, upright and without transparency."""
    with _open(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _eight_bit(image).convert(mode)


@dataclass(frozen=True)
class ImageReader:
    """Function from image files to tensors of one shape, of 1 channel for grey or 3 for colour.

    `crop` is the side of the central square to cut out first; if None, the largest part with the
    proportions of the result is cut out.
    """

    channels: int
    height: int
    width: int
    crop: int | None = None

    def __call__(self, file: ImageFile) -> UInt8[Tensor, "channels height width"]:
        """Return the pixels of a file."""
        image, crop = read_image(file, "L" if self.channels == 1 else "RGB"), self.crop
        if crop is not None:
            if crop > min(image.size):
                pixels = f"{image.width} × {image.height} pixels"
                raise ValueError(f"crop={crop}, but {file} has {pixels}: give a smaller crop")
            left, top = ((length - crop) // 2 for length in image.size)
            image = image.crop((left, top, left + crop, top + crop))
        if image.size != (self.width, self.height):
            image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)
        values = np.array(image).reshape(self.height, self.width, self.channels)
        return torch.from_numpy(values).permute(2, 0, 1)


@contextmanager
def _open(file: ImageFile) -> Iterator[Image.Image]:
    try:
        stream = io.BytesIO(file.content) if isinstance(file, EncodedImage) else None
        size = Path(str(file)).stat().st_size if stream is None else len(stream.getbuffer())
        if not size:
            raise ValueError("the file is empty")
        with Image.open(str(file) if stream is None else stream, formats=image_formats()) as image:
            width, height = image.size
            if not all(type(length) is int and length >= 1 for length in image.size):
                raise ValueError(f"its size of {width} × {height} is not a number of pixels")
            claim = f"it claims {width} × {height} pixels in {size} bytes; if you trust it,"
            # Pillow itself only warns up to twice its limit.
            if width * height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise ValueError(f"{claim} raise PIL.Image.MAX_IMAGE_PIXELS")
            if width * height > max(MAX_PIXELS, MAX_PIXELS_PER_BYTE * size):
                raise ValueError(f"{claim} scale it to at most {MAX_PIXELS:,} pixels")
            yield image
    except Exception as error:  # a decoder may raise anything on a damaged file
        # `strerror` alone, because the message of an OSError repeats the path
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OSError(f"{file} cannot be read as an image: {reason}") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the image in an 8-bit mode that `convert` turns into grey or RGB, without alpha."""
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if image.mode[0] == "I":
        values = np.array(image).astype(np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels do not fit into 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image
