"""Measurements of images: y and A from files and options."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from .. import inverse
from ..data.image import read_image
from ..inverse import LinearOperator

BYTE_ROUNDING_STD = 1 / (256 * 12**0.5)
"""Standard deviation of the rounding error of 8-bit values."""


def find_operator(
    image: torch.Size, mask: Path | None, factor: int | None, sigma: float | None
) -> tuple[LinearOperator, tuple[int, ...]]:
    """Return A and the shape of y for images of a shape; without options A takes the colours."""
    channels, height, width = image
    if mask is not None:
        known = read_pixels(mask, (1, height, width), "--mask") > 0.5
        if known.all() or not known.any():
            raise ValueError(
                f"--mask {mask}: it is all {'white' if known.all() else 'black'}; pixels are known "
                "where it is white (transparent counts as white) and unknown where it is black"
            )
        return inverse.mask(known), (channels, height, width)
    if factor is not None:
        if factor < 2 or height % factor or width % factor:
            raise ValueError(f"--factor {factor}: it must divide {height} and {width}, the model's")
        return inverse.downsample(factor), (channels, height // factor, width // factor)
    if sigma is not None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"--sigma {sigma}: give the blur's standard deviation, above 0")
        return inverse.blur(sigma), (channels, height, width)
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
