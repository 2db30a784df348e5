"""Many image files: a folder of them, kept as 8-bit pixels in memory or read when samples are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from .fingerprint import check_unchanged, file_stamp
from .image import ImageFile, ImageReader, image_suffixes, read_header, read_image
from .sources import Arrays, Dataset, Labelled, Part, Source, Split

Entry = TypeVar("Entry")
Value = TypeVar("Value")


@dataclass(frozen=True)
class FileList:
    """Image files of a place, each opened by its index when it is asked for."""

    place: str | Path
    names: Sequence[str]
    file: Callable[[int], ImageFile]


def folder_files(root: Path, names: Sequence[str]) -> FileList:
    """Return files of a folder; one that has changed since is refused."""
    stamps = [file_stamp(root / name) for name in names]

    def file(index: int) -> Path:
        path = root / names[index]
        if path.exists():  # a missing file is reported when it is opened
            check_unchanged(path, stamps[index])
        return path

    return FileList(root, names, file)


@dataclass(frozen=True, eq=False)
class ImageFiles(Source):
    """Image files, decoded when they are taken.

    A part of them is read at once if all together take at most `memory` bytes.
    """

    files: FileList
    reader: ImageReader
    labels: Int[Tensor, "n"] | None = None
    memory: int = 0

    @property
    def shape(self) -> torch.Size:
        """Shape of one image."""
        return torch.Size([self.reader.channels, self.reader.height, self.reader.width])

    def __len__(self) -> int:
        return len(self.files.names)

    def _read(self, index: int) -> Tensor:
        return self.reader(self.files.file(index))

    def take(self, index: Int[Tensor, "batch"], *, threads: bool = False) -> Labelled:
        """Return the images of these indices, read from their files, and their labels."""
        stack = torch.empty(len(index), *self.shape, dtype=torch.uint8)
        rows = index.tolist()
        images = map_in_threads(self._read, rows) if threads else map(self._read, rows)
        for place, image in zip(stack, images, strict=True):
            place.copy_(image)
        return stack, None if self.labels is None else self.labels[index]

    def part(self, rows: Int[Tensor, "n"]) -> Source:
        """Return some of the images, in memory if there is room for all."""
        if len(self) * self.shape.numel() > self.memory:
            return Part(self, rows)
        return Arrays(*self.take(rows, threads=True))


def map_in_threads(function: Callable[[Entry], Value], items: Iterable[Entry]) -> Iterator[Value]:
    """Yield function(item) of each item in order, computed by one thread a processor."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rest = iter(items)
        while some := list(islice(rest, 1024)):
            yield from pool.map(function, some)


@dataclass(frozen=True)
class ImageSize:
    """The shape that images are brought to, as far as the user chooses it; see `folder`."""

    size: int | None = None
    crop: int | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if any(side is not None and side < 1 for side in (self.size, self.crop)):
            raise ValueError(f"size={self.size}, crop={self.crop}: give at least 1 pixel, or none")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels={self.channels}: give 1 for grey or 3 for colour, or none")

    def reader(self, files: FileList) -> ImageReader:
        """Return the reader; a size that is not chosen is read from the headers of the files."""
        size, channels, names = self.size or self.crop, self.channels, files.names
        if size is not None and channels is not None:
            return ImageReader(channels, size, size, self.crop)
        headers = map_in_threads(lambda i: read_header(files.file(i)), range(len(names)))
        width, height, grey = next(headers, (1, 1, True))
        for name, (w, h, without_colour) in zip(names[1:], headers, strict=True):
            if size is None and (w, h) != (width, height):
                raise ValueError(
                    f"{files.place}: {names[0]} has {width} × {height} pixels, {name} {w} × {h}; "
                    "give the side to scale them to by size"
                )
            grey = grey and without_colour
        return ImageReader(channels or (1 if grey else 3), size or height, size or width, self.crop)


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
    """Load the images in a folder and its subfolders, sorted by name; hidden files are ignored.

    A twentieth of them is held out, at least one: the names with the smallest hashes, so that a
    file stays on its side when others are added (except for the one nearest to the cut, if no hash
    is in the lowest twentieth).

    Args:
        path: the folder. Links to other folders are not followed.
        size: side of the square that each image is scaled to; by default the size of all.
        crop: side of the central square to cut out first; by default the largest.
        channels: 1 for grey, 3 for colour; by default grey if every image is.
        labels: use the folders of the first level as classes, in the order of their names.
        skip: leave out files that cannot be read, and list them in `Dataset.skipped`; this reads
            all files once more.
        memory: keep the pixels in memory if they take no more bytes than this. If they take more,
            give `size` and `channels` too: otherwise the header of each file is read first.
    """
    choice, root = ImageSize(size, crop, channels), Path(path)
    names, skipped = image_names(root), tuple[str, ...]()
    if skip:
        names, skipped = _readable(root, names)
    tops = [name.rpartition("/")[0].partition("/")[0] for name in names] if labels else []
    if "" in tops:
        raise ValueError(
            f"labels are the folders of {root}, but {names[tops.index('')]} is in none of them: "
            "move it, or leave labels out"
        )
    classes = {top: i for i, top in enumerate(sorted(set(tops)))}
    numbers = torch.tensor([classes[top] for top in tops]) if labels else None
    files = folder_files(root, names)
    images = ImageFiles(files, choice.reader(files), numbers, memory)
    rows, name = _hash_split(names), root.resolve().name
    return Dataset.split(name, images, rows, classes=len(classes), skipped=skipped)


def image_names(root: Path) -> list[str]:
    """Return the paths of all image files below a folder, relative to it and sorted."""

    def stop(error: OSError) -> None:
        raise error

    files = list[Path]()
    for place, folders, names in os.walk(root, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    images = [file for file in files if file.suffix.lower() in image_suffixes()]
    if not images:
        raise OSError(f"{root} holds no images, but {len(files)} files with other extensions")
    return sorted(image.relative_to(root).as_posix() for image in images)


def _readable(root: Path, names: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Separate the files that can be read from the others."""

    def is_readable(name: str) -> bool:
        try:
            read_image(root / name, "RGB")
        except OSError:
            return False
        return True

    readable = map_in_threads(is_readable, names)
    skipped = tuple(name for name, ok in zip(names, readable, strict=True) if not ok)
    if len(skipped) == len(names):
        raise OSError(f"{root} holds {len(names)} images, none of which can be read")
    return sorted({*names} - {*skipped}), skipped


def _hash_split(names: Sequence[str]) -> Split:
    """Split by the hashes of the names; the rows stay in their order."""
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    twentieth = sum(int.from_bytes(digest[:8], "big") < 2**64 // 20 for digest in hashes)
    count = min(max(1, twentieth), len(names) - 1)
    order = torch.tensor(sorted(range(len(names)), key=hashes.__getitem__))
    return order[count:].sort().values, order[:count].sort().values
