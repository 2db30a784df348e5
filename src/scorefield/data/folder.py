"""A folder of images: kept as 8-bit pixels if they fit into memory, else read when asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from . import picture
from .dataset import Dataset
from .fingerprint import stamp
from .picture import Reader
from .pictures import Below, Files, Pictures, each
from .source import Source


def folder(
    path: str | Path,
    *,
    size: int | None = None,
    crop: int | None = None,
    channels: int | None = None,
    labels: bool = False,
    skip: bool = False,
    memory: int = 2**30,
) -> Dataset:
    """The images below a folder, in the order of their names; hidden files and others are ignored.

    A twentieth of them is held out, at least one: those whose names have the least hashes, so that
    a file stays on its side when others are added (but for the one closest to the cut, if there are
    so few that none is below a twentieth).

    Args:
        path: the folder. Links to other folders are not followed.
        size: the side of the square that each image is scaled to; may be left out if all have one
            size.
        crop: the side of the central square to cut out first; the largest if left out.
        channels: 1 for grey, 3 for colour; if left out, grey if every image is.
        labels: take the folders of the first level for classes, in the order of their names.
        skip: leave out what cannot be read, and list it in `Dataset.skipped`. All files are read
            once more to know.
        memory: keep the pixels in memory if they take no more bytes than this. If they take more,
            give `size` and `channels` too: it spares a look at each file's header.
    """
    check(size, crop, channels)
    root = Path(path)
    names, skipped = listed(root), list[str]()
    if skip:
        names, skipped = _sound(root, names)
    reader = reading(root, Below(root, tuple(names)), names, size, crop, channels)
    classes = _classes(root, names) if labels else {}

    def source(some: Sequence[str]) -> Source:
        index = [classes[_first(name)] for name in some] if labels else None
        numbers = None if index is None else torch.tensor(index)
        files = Pictures(Below(root, tuple(some)), reader, numbers)
        if len(names) * files.shape.numel() <= memory:
            return files.read()
        stamps = tuple(stamp(root / name) for name in some)
        return replace(files, files=Below(root, tuple(some), stamps))

    held = _held_out(names)
    train = source([name for name in names if name not in held])
    test = source([name for name in names if name in held]) if held else None
    return Dataset(root.resolve().name, train, test, classes=len(classes), skipped=tuple(skipped))


def check(size: int | None, crop: int | None, channels: int | None) -> None:
    """Refuse what cannot be made of images."""
    if any(side is not None and side < 1 for side in (size, crop)):
        raise ValueError(f"size={size}, crop={crop}: give at least 1 pixel, or leave it out")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: give 1 for grey or 3 for colour, or leave it out")


def listed(root: Path) -> list[str]:
    """The image files below a folder, sorted, relative to it."""

    def stop(error: OSError) -> None:
        raise error

    found, others = [], 0
    for place, folders, files in os.walk(root, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in files if not name.startswith(".")]
        images = [name for name in visible if Path(name).suffix.lower() in picture.suffixes()]
        others += len(visible) - len(images)
        found += [(Path(place) / name).relative_to(root).as_posix() for name in images]
    if not found:
        raise OSError(f"{root} holds no images, and {others} files that are none by their names")
    return sorted(found)


def _sound(root: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """What can be read, and what cannot."""

    def readable(path: Path) -> bool:
        try:
            picture.upright(path, "RGB")
        except OSError:
            return False
        return True

    verdicts = list(each(readable, (root / name for name in names)))
    good = [name for name, fine in zip(names, verdicts, strict=True) if fine]
    if not good:
        raise OSError(f"{root} holds {len(names)} images, none of which can be read")
    return good, [name for name, fine in zip(names, verdicts, strict=True) if not fine]


def reading(
    where: str | Path,
    files: Files,
    names: Sequence[str],
    size: int | None,
    crop: int | None,
    channels: int | None,
) -> Reader:
    """How images become of one shape; what is not given comes from the headers of all files."""
    size = size or crop
    if size is not None and channels is not None:
        return Reader(channels, size, size, crop)
    first: tuple[str, int, int] | None = None
    grey = True
    found = each(lambda i: picture.header(files[i]), range(len(files)))
    for name, header in zip(names, found, strict=True):
        first = first or (name, header.height, header.width)
        if size is None and first[1:] != (header.height, header.width):
            raise ValueError(
                f"size is not given, but the images of {where} differ in it: {first[0]} has "
                f"{first[2]} × {first[1]} pixels, {name} {header.width} × {header.height}; give "
                "the side to scale them to"
            )
        grey = grey and header.grey
    height, width = (size, size) if size is not None else (first or ("", 1, 1))[1:]
    return Reader(channels or (1 if grey else 3), height, width, crop)


def _first(name: str) -> str:
    return name.partition("/")[0]


def _classes(root: Path, names: Sequence[str]) -> dict[str, int]:
    """The number of each folder of the first level."""
    loose = [name for name in names if "/" not in name]
    if loose:
        raise ValueError(
            f"labels are the folders of {root}, but {loose[0]} lies in none: move it, or leave "
            "labels out"
        )
    return {name: i for i, name in enumerate(sorted({_first(name) for name in names}))}


def _held_out(names: Sequence[str]) -> set[str]:
    hashes = {
        name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names
    }
    twentieth = sum(int.from_bytes(h[:8], "big") < 2**64 // 20 for h in hashes.values())
    count = min(max(1, twentieth), len(names) - 1)
    return set(sorted(names, key=hashes.__getitem__)[:count])
