"""Samples as files: PNG grids, single PNGs, arrays and animations, each with its metadata.

Pictures hold the bytes ⌊256x⌋ of values in [0, 1], the inverse of dequantisation; other values are
clipped. Of a volume they show the middle slice. Arrays hold the floats as they are.
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..disk import check_writable, open_regular, write_file, write_parts

MIN_SIDE = 96
"""Pixels a side to which small images are enlarged in grids, by whole factors."""
MAX_SHEET = 4096
"""Pixels a side of the largest grid that is enlarged."""
SAMPLE_NAME = re.compile(r"\d{6,}\.png")
"""Names of single samples in a folder."""

Pictures = Float[Tensor, "n channels *depth height width"]


def as_bytes(x: Pictures) -> UInt8[Tensor, "n channels height width"]:
    """Return ⌊256x⌋, clipped to a byte, of images or middle slices; NaN becomes 0."""
    x = x[:, :, x.shape[2] // 2] if x.ndim == 5 else x
    return x.detach().cpu().float().nan_to_num(0.0).mul(256).floor().clamp(0, 255).to(torch.uint8)


def picture(x: UInt8[Tensor, "channels height width"]) -> Image.Image:
    """Return one image of 1 or 3 channels."""
    array = x.permute(1, 2, 0).numpy()
    if array.shape[2] not in (1, 3):
        raise ValueError(f"a PNG has 1 or 3 channels, not {array.shape[2]}: write .npy instead")
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else np.ascontiguousarray(array))


def grid(x: Pictures, columns: int | None = None) -> Image.Image:
    """Return images side by side, a pixel apart, small ones enlarged."""
    return _sheet(as_bytes(x), columns)


def _sheet(pixels: Tensor, columns: int | None = None) -> Image.Image:
    n, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    size = rows, columns, channels, height + 1, width + 1
    tiles = torch.full(size, 255, dtype=torch.uint8)
    tiles.flatten(0, 1)[:n, :, :-1, :-1] = pixels
    sheet = tiles.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    whole = picture(sheet[:, :-1, :-1])
    factor = max(1, min(MIN_SIDE // max(height, width), MAX_SHEET // max(whole.size)))
    return whole.resize((whole.width * factor, whole.height * factor), Image.Resampling.NEAREST)


def png(image: Image.Image, about: Mapping[str, Any], **options: Any) -> bytes:
    """Return the content of a PNG file, with metadata in a text chunk."""
    content, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_itxt("scorefield", json.dumps(about))
    image.save(content, "png", pnginfo=info, **options)
    return content.getvalue()


def animation(
    frames: Sequence[Image.Image], suffix: str, about: Mapping[str, Any], *, seconds: float = 4.0
) -> bytes:
    """Return the content of a GIF or an animated PNG, which pauses at its end."""
    if not frames:
        raise ValueError("frames is empty: give at least one")
    milliseconds = max(20, round(1000 * seconds / len(frames)))
    options: dict[str, Any] = dict(
        save_all=True, append_images=list(frames[1:]), loop=0,
        duration=[milliseconds] * (len(frames) - 1) + [1500],
    )  # fmt: skip
    if suffix in (".png", ".apng"):
        return png(frames[0], about, **options)
    if suffix != ".gif":
        raise ValueError(f"an animation is a .gif or a .png, not {suffix or 'without a suffix'}")
    content = io.BytesIO()
    frames[0].save(content, "gif", comment=json.dumps(about).encode(), **options)
    return content.getvalue()


def is_picture(shape: Sequence[int]) -> bool:
    """Return True if samples of a shape are images or volumes, grey or in colours."""
    return len(shape) in (3, 4) and shape[0] in (1, 3)


def check_name(path: Path, shape: Sequence[int], overwrite: bool = False) -> None:
    """Refuse a file name that does not suit samples of a shape, before the work."""
    if path.suffix not in ("", ".png", ".npy"):
        raise ValueError(f"{path}: samples are written as .png, as .npy, or singly into a folder")
    if path.suffix != ".npy" and not is_picture(shape):
        raise ValueError(f"{path}: these samples are not images, write them as .npy")
    check_place(path, overwrite)


def check_place(path: Path, overwrite: bool = False) -> None:
    """Refuse a file, or a folder for single images, that cannot be written.

    `overwrite` replaces a folder's samples, but never other files.
    """
    if path.suffix and path.is_dir():
        raise ValueError(f"{path} is a directory: name a file in it")
    if not path.suffix and path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: name a folder for single images")
    check_writable(path)
    files = visible_files(path)
    if others := [file.name for file in files if not _is_sample(file)]:
        raise ValueError(f"{path} holds {others[0]}, which is not a sample: name another folder")
    if files and not overwrite:
        raise ValueError(
            f"{path} holds {len(files)} samples: replace them with --overwrite (in Python "
            "overwrite=True), or name another folder"
        )


def visible_files(path: Path) -> list[Path]:
    """Return the files of a folder except hidden ones; nothing if there is no such folder."""
    files = path.iterdir() if path.is_dir() else ()
    return sorted(file for file in files if not file.name.startswith("."))


def _is_sample(path: Path) -> bool:
    """True for a file that `write` puts into a folder."""
    if not SAMPLE_NAME.fullmatch(path.name):
        return False
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
            return "sample" in json.loads(image.info["scorefield"])
    except Exception:  # a decoder may raise anything on a damaged file
        return False


def write(path: Path, x: Tensor, about: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write samples as one PNG grid, as .npy in their own units, or singly into a folder.

    The metadata of x.npy are in x.npy.json. A folder that is not empty is refused, unless
    `overwrite` may replace older samples in it.
    """
    with write_batches(path, len(x), x.shape[1:], about, overwrite) as add:
        add(x)


def write_about(path: Path, about: Mapping[str, Any]) -> None:
    """Write the metadata of a file that cannot hold them, next to it."""
    write_file(path.with_name(f"{path.name}.json"), json.dumps(about, indent=2).encode())


@contextmanager
def write_batches(
    path: Path, n: int, shape: Sequence[int], about: Mapping[str, Any], overwrite: bool = False
) -> Iterator[Callable[[Tensor], None]]:
    """Write n samples that come in batches; only a grid's pixels are kept in memory."""
    check_name(path, shape, overwrite)
    if path.suffix == ".npy":
        with write_parts(path) as put:
            header = io.BytesIO()
            kind = {"descr": "<f4", "fortran_order": False, "shape": (n, *shape)}
            np.lib.format.write_array_header_1_0(header, kind)
            put(header.getvalue())
            yield lambda x: put(x.detach().cpu().numpy().astype("<f4", order="C").tobytes())
        write_about(path, about)
    elif path.suffix == ".png":
        parts = list[Tensor]()
        yield lambda x: parts.append(as_bytes(x))
        write_file(path, png(_sheet(torch.cat(parts)), about))
    else:
        numbers = count()
        for old in visible_files(path):
            old.unlink()

        def add(x: Tensor) -> None:
            for image, i in zip(as_bytes(x), numbers, strict=False):
                write_file(path / f"{i:06d}.png", png(picture(image), {**about, "sample": i}))

        yield add
