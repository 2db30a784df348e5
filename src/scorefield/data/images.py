"""Many image files: a folder of them, kept as 8-bit pixels in memory or read when samples are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from .fingerprint import check_unchanged, file_stamp
from .image import ImageFile, ImageReader, image_suffixes, read_header, read_image
from .sources import Arrays, Dataset, Labelled, Part, Source

Argument = TypeVar("Argument")
Value = TypeVar("Value")


@runtime_checkable
class FileList(Protocol):
    """Image files by index, each opened when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageFile: ...


class FolderFiles:
    """Files of a folder, by their paths in it; one that has changed since is refused."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names
        self.stamps = [file_stamp(root / name) for name in names]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        path = self.root / self.names[index]
        if path.exists():  # a missing file is reported when it is opened
            check_unchanged(path, self.stamps[index])
        return path


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
        return len(self.files)

    def _read(self, index: int) -> Tensor:
        return self.reader(self.files[index])

    def _stack(self, images: Iterator[Tensor], index: Tensor) -> Labelled:
        stack = torch.empty(len(index), *self.shape, dtype=torch.uint8)
        for place, image in zip(stack, images, strict=True):
            place.copy_(image)
        return stack, None if self.labels is None else self.labels[index]

    def take(self, index: Int[Tensor, "batch"]) -> Labelled:
        """Return the images of these indices, read from their files, and their labels."""
        return self._stack(map(self._read, index.tolist()), index)

    def part(self, rows: Int[Tensor, "n"]) -> Source:
        """Return some of the images, in memory if there is room for all."""
        if len(self) * self.shape.numel() > self.memory:
            return Part(self, rows)
        return Arrays(*self._stack(map_in_threads(self._read, rows.tolist()), rows))


def map_in_threads(
    function: Callable[[Argument], Value], items: Iterable[Argument]
) -> Iterator[Value]:
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
            raise ValueError(
                f"size={self.size}, crop={self.crop}: give at least 1 pixel, or leave it out"
            )
        if self.channels not in (None, 1, 3):
            raise ValueError(
                f"channels={self.channels}: give 1 for grey or 3 for colour, or leave it out"
            )

    def reader(self, where: str | Path, files: FileList, names: Sequence[str]) -> ImageReader:
        """Return the reader; a size that is not chosen is read from the headers of named files."""
        size, channels = self.size or self.crop, self.channels
        if size is not None and channels is not None:
            return ImageReader(channels, size, size, self.crop)
        headers = map_in_threads(lambda i: read_header(files[i]), range(len(names)))
        first, grey = None, True
        for name, header in zip(names, headers, strict=True):
            first = first or (name, header)
            if size is None and first[1][:2] != header[:2]:
                raise ValueError(
                    f"size is not given, but the images of {where} differ in it: {first[0]} has "
                    f"{first[1].width} × {first[1].height} pixels, {name} {header.width} × "
                    f"{header.height}; give the side to scale them to"
                )
            grey = grey and header.grey
        height, width = (first[1].height, first[1].width) if first else (1, 1)
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
        size: side of the square that each image is scaled to; may be left out if all have one
            size.
        crop: side of the central square to cut out first; by default the largest.
        channels: 1 for grey, 3 for colour; by default grey if every image is.
        labels: use the folders of the first level as classes, in the order of their names.
        skip: leave out files that cannot be read, and list them in `Dataset.skipped`; this reads
            all files once more.
        memory: keep the pixels in memory if they take no more bytes than this. If they take more,
            give `size` and `channels` too: otherwise the header of each file is read first.
    """
    choice = ImageSize(size, crop, channels)
    root = Path(path)
    names, skipped = image_names(root), tuple[str, ...]()
    if skip:
        names, skipped = _readable(root, names)
    classes = _number_classes(root, names) if labels else {}
    numbers = torch.tensor([classes[_top(name)] for name in names]) if labels else None
    files = FolderFiles(root, names)
    images = ImageFiles(files, choice.reader(root, files, names), numbers, memory)
    rows = _hash_split(names)
    name = root.resolve().name
    return Dataset.split(name, images, rows, classes=len(classes), skipped=skipped)


def image_names(root: Path) -> list[str]:
    """Return the paths of all image files below a folder, relative to it and sorted."""

    def stop(error: OSError) -> None:
        raise error

    names, others = list[str](), 0
    for place, folders, files in os.walk(root, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in files if not name.startswith(".")]
        images = [name for name in visible if Path(name).suffix.lower() in image_suffixes()]
        others += len(visible) - len(images)
        names += [(Path(place) / name).relative_to(root).as_posix() for name in images]
    if not names:
        raise OSError(f"{root} holds no images, but {others} files with other extensions")
    return sorted(names)


def _readable(root: Path, names: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Separate the files that can be read from the others."""

    def readable(name: str) -> bool:
        try:
            read_image(root / name, "RGB")
        except OSError:
            return False
        return True

    verdicts = dict(zip(names, map_in_threads(readable, names), strict=True))
    good = [name for name in names if verdicts[name]]
    if not good:
        raise OSError(f"{root} holds {len(names)} images, none of which can be read")
    return good, tuple(name for name in names if not verdicts[name])


def _top(name: str) -> str:
    return name.partition("/")[0]


def _number_classes(root: Path, names: Sequence[str]) -> dict[str, int]:
    """Number the folders of the first level."""
    loose = [name for name in names if "/" not in name]
    if loose:
        raise ValueError(
            f"labels are the folders of {root}, but {loose[0]} is in none of them: move it, or "
            "leave labels out"
        )
    return {name: i for i, name in enumerate(sorted({_top(name) for name in names}))}


def _hash_split(names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Split by the hashes of the names; the rows stay in their order."""
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    twentieth = sum(int.from_bytes(digest[:8], "big") < 2**64 // 20 for digest in hashes)
    count = min(max(1, twentieth), len(names) - 1)
    order = torch.tensor(sorted(range(len(names)), key=hashes.__getitem__))
    return order[count:].sort().values, order[:count].sort().values
