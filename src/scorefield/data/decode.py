"""Image files as 8-bit pixels, in any format that Pillow decodes itself.

Orientation follows EXIF; transparency is laid over white; palettes, CMYK and others become RGB.
16 bits become 8, round(v/257); but ⌊v/256⌋, as Pillow reads them, in colours of another format than
PNG and TIFF.
"""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Condition
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile as PillowFile

from ..disk import open_regular
from ..values import escape_controls

EXCLUDED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "ICNS", "ICO", "MPEG", "WMF"}
"""Formats that Pillow does not decode itself (for EPS it would run Ghostscript), and icons, which
hold an image of any size."""
MAX_PIXELS = 2**24
"""Number of pixels above which a file must hold at least one byte for `MAX_PIXELS_PER_BYTE`."""
MAX_PIXELS_PER_BYTE = 100
PIXELS_AT_ONCE = 2**26
"""Pixels decoded by all threads at a time; a larger image is decoded alone."""
STRIP_PIXELS = 2**20
"""Pixels of an image that are converted at a time."""
QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations by which height and width change places."""
SIXTEEN_BITS = re.compile(r"(RGBX?;16|RGBA;16)([BLN])")
"""Pillow's names of 16-bit colours, and their byte order."""
GREY_BYTES = "RGBA"
"""Pillow's name of four bytes: of 16-bit grey and alpha the high byte and the low one, each."""


class PixelBudget:
    """The number of pixels that all threads together may decode at a time."""

    def __init__(self, pixels: int):
        self.pixels = self.left = pixels
        self.changed = Condition()

    @contextmanager
    def hold(self, image: Image.Image) -> Iterator[None]:
        """Wait until there is room for an image, and take it while the block runs."""
        pixels = min(image.width * image.height, self.pixels)
        with self.changed:
            self.changed.wait_for(lambda: self.left >= pixels)
            self.left -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.left += pixels
                self.changed.notify_all()


PIXELS = PixelBudget(PIXELS_AT_ONCE)


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


def read_header(file: ImageFile) -> tuple[int, int, bool]:
    """Return width and height of an image, upright, and if it is grey."""
    with _open(file) as image:
        with PIXELS.hold(image):  # to find the EXIF of a PNG, Pillow decodes all of it
            turned = image.getexif().get(0x0112) in QUARTER_TURNS
        width, height = image.size[::-1] if turned else image.size
        return width, height, Image.getmodebase(image.mode) == "L"


def read_image(file: ImageFile, mode: Literal["L", "RGB"]) -> Image.Image:
    """Return an 8-bit image, upright and without transparency."""
    with decode(file, mode) as image:
        return image


@contextmanager
def decode(file: ImageFile, mode: Literal["L", "RGB"]) -> Iterator[Image.Image]:
    """Yield what `read_image` returns; other threads may wait until the block ends."""
    with ExitStack() as stack:
        with _open(file) as image:
            stack.enter_context(PIXELS.hold(image))
            tiles, parts = _low_bytes(image), list[Image.Image]([image])
            ImageOps.exif_transpose(image, in_place=True)
            if tiles:
                with _open(file) as low:
                    low.tile = tiles
                    ImageOps.exif_transpose(low, in_place=True)
                parts.append(low)
                if tiles[0][-1] == GREY_BYTES:
                    parts[1] = Image.merge("RGBA", [low.getchannel(i) for i in (1, 1, 1, 3)])
            result, rows = Image.new(mode, image.size), max(1, STRIP_PIXELS // image.width)
            for top in range(0, image.height, rows):
                box = 0, top, image.width, min(top + rows, image.height)
                strip = _eight_bit(*(part.crop(box) for part in parts))
                result.paste(strip.convert(mode), box)
        yield result


@contextmanager
def _open(file: ImageFile) -> Iterator[PillowFile]:
    try:
        stream: IO[bytes]
        stream = io.BytesIO(file.content) if isinstance(file, EncodedImage) else open_regular(file)
        with stream:
            size = stream.seek(0, io.SEEK_END)
            if not size:
                raise ValueError("the file is empty")
            image = Image.open(stream, formats=image_formats())
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
        if isinstance(error, UnidentifiedImageError):
            reason = "it is damaged, or in no format that is read here"
        name = escape_controls(str(file))
        raise OSError(f"{name} cannot be read as an image: {reason}") from error


def _low_bytes(image: PillowFile) -> list[Any]:
    """Return tiles from which Pillow decodes the low bytes of 16-bit colours instead of the high.

    In the other byte order, the byte that it takes for the high one is the low one.
    """
    tiles = []
    for *place, args in image.tile:
        name, *rest = args if isinstance(args, tuple) and args else (args,)
        if name == "LA;16B":
            return [(*place, GREY_BYTES)]
        match = SIXTEEN_BITS.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            return []
        little = match[2] == "L" or (match[2] == "N" and sys.byteorder == "little")
        name = match[1] + ("B" if little else "L")
        tiles.append((*place, (name, *rest) if rest else name))
    return tiles


def _eight_bit(image: Image.Image, low: Image.Image | None = None) -> Image.Image:
    """Return the image in an 8-bit mode that `convert` turns into grey or RGB, without alpha.

    `low` are the low bytes of 16 bits, of which `image` has the high ones.
    """
    if low is not None:
        values = 256 * np.array(image).astype(np.int32) + np.array(low)
        rounded = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        rounded.info, image = image.info, rounded
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
