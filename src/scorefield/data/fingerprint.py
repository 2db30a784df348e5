"""What data are known by, so that a run goes on with those that it began with.

    a file     its size, and a checksum of pieces spread over it, of all of it if it is small
    a folder   each image's size, and the same of so many of them
    a name     8-bit samples by a checksum, others by their moments, which machines agree on

Times do not count: a copy is the same data. While a run reads files they do: whoever writes to one
changes its time.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from .dataset import Dataset
from .source import Source

Stamp: TypeAlias = "tuple[int, int]"
"""The size of a file, and when it was last written to."""

PIECES, PIECE = 1024, 2**16
"""Of a file of arrays: all of one of 64 MiB."""
ENDS = 2**12
"""Bytes at both ends of an image; those of a PNG hold a checksum of all."""
LOOKED_INTO = 20_000
"""Images of a folder."""


def of_file(path: Path) -> dict[str, str]:
    """What a file of arrays is known by."""
    return {path.name: _mark(path, PIECES, PIECE)}


def of_folder(root: Path, names: Sequence[str]) -> dict[str, str]:
    """What the images of a folder are known by, by their names."""
    every = -(-len(names) // LOOKED_INTO)
    return {
        name: _mark(f"{root}/{name}", 2 if i % every == 0 else 0, ENDS)
        for i, name in enumerate(names)
    }


def fingerprint_samples(data: Dataset) -> dict[str, str]:
    """What data are known by that are in no file of the user's."""
    held = {} if data.test is None else {"held out": data.test}
    return {name: _samples(source) for name, source in ({"trained on": data.train} | held).items()}


def describe_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What of the data is not as it was, in words; nothing if all is."""
    gone = [f"{name} is gone" for name in before if name not in now]
    new = [f"{name} is new" for name in now if name not in before]
    other = [f"{name} has changed" for name in before if name in now and before[name] != now[name]]
    found = [*gone, *new, *other]
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def stamp(file: Path | int) -> Stamp:
    """What changes when somebody writes to a file, or to one that is open."""
    try:
        found = os.stat(file)
    except OSError:  # a link to nowhere, which who reads it will name
        return -1, -1
    return found.st_size, found.st_mtime_ns


def check_stamp(path: Path, before: Stamp, file: int | None = None) -> None:
    """Refuse a file, perhaps open, that is not as it was."""
    now = stamp(path if file is None else file)
    if now != before:
        raise OSError(
            f"{path} has changed since it was opened, from {before[0]} to {now[0]} bytes"
            if now[0] != before[0]
            else f"{path} was written to since it was opened"
        )


def _mark(path: str | Path, pieces: int, length: int) -> str:
    """A file's size, and a checksum of pieces spread evenly over it, both ends included."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if not pieces:
                return str(size)
            count, length = (1, size) if size <= pieces * length else (pieces, length)
            total = 0
            for i in range(count):
                file.seek(i * (size - length) // max(count - 1, 1))
                total = zlib.crc32(file.read(length), total)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{size} {total:08x}"


def _samples(source: Source) -> str:
    n = len(source)
    x, labels = source.take(torch.linspace(0, n - 1, min(n, 1000), dtype=torch.float64).long())
    x, values = x.cpu(), x.cpu().double()
    known = f"{values.mean():.4g} ± {values.std(correction=0):.4g}"
    if x.dtype == torch.uint8:
        known = f"{zlib.crc32(x.numpy().tobytes()):08x}"
    if labels is not None:
        known += f", labels {zlib.crc32(labels.cpu().numpy().tobytes()):08x}"
    return f"{n} × {tuple(x.shape[1:])} {known}"
