"""One image file as 8-bit pixels, of any kind Pillow reads; an error names the file.

orientation as EXIF says · 16 bits to 8, round(v/257) · transparency over white · palette, CMYK
and the like to RGB · the central square, scaled by Lanczos
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

FOREIGN = {"BUFR", "EPS", "GRIB", "HDF5", "ICNS", "ICO", "MPEG", "WMF"}
"""Formats that Pillow knows and does not decode itself, and icons, in which lies an image of any
size; for EPS it would run Ghostscript."""
PIXELS, RATIO = 2**24, 100
"""An image may have more pixels than the first if that is not this many for each of its bytes."""


@dataclass(frozen=True)
class Encoded:
    """An image file that lies in another file."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


File: TypeAlias = str | Path | Encoded
"""What an image is read from; as a str, what an error calls it."""


class Header(NamedTuple):
    """What an image says of itself, upright."""

    width: int
    height: int
    grey: bool


@cache
def formats() -> tuple[str, ...]:
    """What is read."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in FOREIGN)


@cache
def suffixes() -> frozenset[str]:
    """The extensions of what is read, in lower case."""
    known = formats()
    return frozenset(s for s, name in Image.registered_extensions().items() if name in known)


def header(path: File) -> Header:
    """Size and kind of an image, without its pixels."""
    try:
        with _open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # a quarter turn, perhaps mirrored
            width, height = image.size[::-1] if turned else image.size
            return Header(width, height, Image.getmodebase(image.mode) == "L")
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise _unreadable(path, error) from error


def upright(path: File, mode: Literal["L", "RGB"]) -> Image.Image:
    """An image of 8 bits, turned as its EXIF says, without transparency."""
    try:
        with _open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _eight_bit(image).convert(mode)
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise _unreadable(path, error) from error


@dataclass(frozen=True)
class Reader:
    """How each image becomes a tensor of one shape.

    Args:
        channels: 1 for grey, 3 for colour.
        height: of what comes out.
        width: of what comes out.
        crop: the side of the central square to cut out first; if None, all that the proportions of
            height and width leave.
    """

    channels: int
    height: int
    width: int
    crop: int | None = None

    def __call__(self, path: File) -> UInt8[Tensor, "channels height width"]:
        """The pixels of a file."""
        plain = upright(path, "L" if self.channels == 1 else "RGB")
        pixels = np.array(self._fit(plain, path)).reshape(self.height, self.width, self.channels)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _fit(self, image: Image.Image, path: File) -> Image.Image:
        if self.crop is not None:
            if self.crop > min(image.size):
                raise ValueError(
                    f"crop={self.crop}, but {path} has {image.width} × {image.height} pixels: "
                    "give a smaller crop"
                )
            left, top = ((length - self.crop) // 2 for length in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        if image.size == (self.width, self.height):
            return image
        return ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)


def _open(path: File) -> Image.Image:
    inside = io.BytesIO(path.content) if isinstance(path, Encoded) else None
    size = Path(str(path)).stat().st_size if inside is None else len(inside.getbuffer())
    if not size:
        raise ValueError("the file is empty")
    image = Image.open(str(path) if inside is None else inside, formats=formats())
    if not all(type(length) is int and length >= 1 for length in image.size):
        image.close()
        raise ValueError(f"its size of {image.width} × {image.height} is none")
    # Pillow itself only warns of what is up to twice as large
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
        image.close()
        raise Image.DecompressionBombError(
            f"it claims {image.width} × {image.height} pixels, more than {Image.MAX_IMAGE_PIXELS}; "
            "if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    if image.width * image.height > max(PIXELS, RATIO * size):
        image.close()
        raise Image.DecompressionBombError(
            f"it claims {image.width} × {image.height} pixels in {size} bytes; if you trust it, "
            f"scale it to {PIXELS:,} pixels at most"
        )
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """In a mode of 8 bits that `convert` turns into grey or RGB, without transparency."""
    if image.mode == "F":
        raise ValueError("its pixels are floats, of which nobody knows what is white")
    if image.mode[0] == "I":
        values = np.array(image).astype(np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels do not fit into 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image


def _unreadable(path: File, error: Exception) -> OSError:
    # of the system's errors the words alone, for they hold the path again
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OSError(f"{path} cannot be read as an image: {reason}")
