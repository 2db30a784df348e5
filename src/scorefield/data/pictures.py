"""Images that are decoded when they are taken, from files or from what holds files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from .fingerprint import Stamp, check_stamp
from .picture import File, Reader
from .source import Arrays

Given = TypeVar("Given")
Found = TypeVar("Found")


@runtime_checkable
class Files(Protocol):
    """Image files by index, on the disk or not; each is got when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> File: ...


@dataclass(frozen=True)
class Below:
    """The files of these names in a folder."""

    root: Path
    names: tuple[str, ...]
    """Relative to the root, with forward slashes."""
    stamps: tuple[Stamp, ...] | None = None
    """Of the files when they were found; one that differs later is refused."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        path = self.root / self.names[index]
        if self.stamps is not None and path.exists():  # who reads it will say that it is gone
            check_stamp(path, self.stamps[index])
        return path


@dataclass(frozen=True, eq=False)
class Pictures:
    """Image files, read when they are taken."""

    files: Files
    reader: Reader
    labels: Int[Tensor, "n"] | None = None
    levels: int = 256

    @property
    def shape(self) -> torch.Size:
        """The shape of one image."""
        return torch.Size([self.reader.channels, self.reader.height, self.reader.width])

    def __len__(self) -> int:
        return len(self.files)

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, Int[Tensor, "batch"] | None]:
        """The images of these indices, from their files, and their labels."""
        images = torch.empty(len(index), *self.shape, dtype=torch.uint8)
        for image, i in zip(images, index.tolist(), strict=True):
            image.copy_(self.reader(self.files[i]))
        return images, None if self.labels is None else self.labels[index]

    def to(self, device: torch.device | str) -> Pictures:
        """Itself: files stay where they are."""
        return self

    def read(self) -> Arrays:
        """The same in memory."""
        images = torch.empty(len(self), *self.shape, dtype=torch.uint8)
        found = each(lambda i: self.reader(self.files[i]), range(len(self)))
        for image, pixels in zip(images, found, strict=True):
            image.copy_(pixels)
        return Arrays(images, self.labels)


def each(do: Callable[[Given], Found], items: Iterable[Given]) -> Iterator[Found]:
    """What becomes of each item, in order, by as many threads as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rest = iter(items)
        while some := list(islice(rest, 1024)):
            yield from pool.map(do, some)
