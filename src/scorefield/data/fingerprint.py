"""Fingerprints of the training data, so that `resume` can refuse different data.

    a file     its size, and a checksum of all of it, or of pieces spread over a large one
    a folder   the size of each image, and a checksum of both ends of at most 20,000 of them
    a name     a checksum of 8-bit samples; of floats the moments, which are equal on all machines

Times are not part of it, so a copy is the same data. While a run reads files, times are compared.
"""

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from ..disk import open_regular
from .sources import Dataset

Stamp: TypeAlias = tuple[int, int]
"""Size of a file and time of the last write to it."""
MISSING_STAMP: Stamp = (-1, -1)

PIECES = 1024
PIECE_BYTES = 2**16
"""A file of up to 64 MiB is read whole."""
END_BYTES = 2**12
"""Bytes to read at both ends of an image; the ends of a PNG hold checksums of all of it."""
CHECKED_IMAGES = 20_000
"""Number of images of a folder that are opened."""


def fingerprint_path(path: Path, names: Sequence[str] = ()) -> dict[str, str]:
    """Return the fingerprint of a file, or of each named image of a folder."""
    if not names:
        return {path.name: _checksum(path, PIECES, PIECE_BYTES)}
    every = -(-len(names) // CHECKED_IMAGES)
    return {
        name: _checksum(f"{path}/{name}", 0 if i % every else 2, END_BYTES)
        for i, name in enumerate(names)
    }


def fingerprint_samples(data: Dataset) -> dict[str, str]:
    """Return number, shape and checksum or moments of each part, of at most 1,000 samples."""
    fingerprints = {}
    for name, source in (("trained on", data.train), ("held out", data.test)):
        if source is None:
            continue
        n = len(source)
        spread = torch.linspace(0, n - 1, min(n, 1000), dtype=torch.float64).long()
        x, labels = source.take(spread)
        conditions = labels if isinstance(labels, Mapping) else {"labels": labels}
        content = _summarise(x)
        for other, value in conditions.items():
            content += "" if value is None else f", {other} {_summarise(value)}"
        fingerprints[name] = f"{n} × {tuple(x.shape[1:])} {content}"
    return fingerprints


def _summarise(x: Tensor) -> str:
    """Return a checksum of whole numbers, or the moments of floats."""
    if not x.is_floating_point():
        return f"{zlib.crc32(x.cpu().numpy().tobytes()):08x}"
    values = x.cpu().double()
    return f"{values.mean():.4g} ± {values.std(correction=0):.4g}"


def describe_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the differences between two fingerprints in words, or an empty string."""
    if len(before) == 1 and [*before.values()] == [*now.values()]:
        return ""  # a file under another name
    changes = [f"{name} is gone" for name in before if name not in now]
    changes += [f"{name} is new" for name in now if name not in before]
    changes += [f"{name} has changed" for name in now if now[name] != before.get(name, now[name])]
    more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
    return ", ".join(changes[:3]) + more


def file_stamp(file: Path | int) -> Stamp:
    """Return the size and time of a file, or of an open one."""
    try:
        status = os.stat(file)
    except OSError:  # for example a broken link; it is reported when it is opened
        return MISSING_STAMP
    return status.st_size, status.st_mtime_ns


def check_unchanged(path: Path, before: Stamp, file: int | None = None) -> None:
    """Refuse a file, or an open one, that has been written to since a stamp was taken."""
    now = file_stamp(path if file is None else file)
    if now not in (before, MISSING_STAMP):
        raise OSError(f"{path} has changed since it was opened, from {before[0]} to {now[0]} bytes")


def _checksum(path: str | Path, pieces: int, length: int) -> str:
    """Return the size of a file, and a checksum of pieces spread evenly from end to end."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if not pieces:
                return str(size)
            count, length = (1, size) if size <= pieces * length else (pieces, length)
            total = 0
            for i in range(count):
                file.seek(i * (size - length) // max(count - 1, 1))
                total = zlib.crc32(file.read(length), total)
    except OSError as error:
        return f"unreadable: {error.strerror or error}"
    return f"{size} {total:08x}"
