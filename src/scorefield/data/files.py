"""NumPy's files: vectors (n, size), images (n, h, w), (n, h, w, c) or (n, c, h, w), or signals.

Signals are (n, channels, length), or (n, length) of one channel, and have to be asked for.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from .dataset import Dataset
from .fingerprint import Stamp, check_stamp, stamp
from .published import CHUNK
from .source import Arrays, Part, Source, hold_out

LABELS = ("labels", "y")
CLASSES = 2**16
"""Above any label; a network has numbers for each class."""
UNPACKED, RATIO = 2**26, 100
"""A .npz may unpack to more bytes than the first if that is not this many times its size."""


def numpy_file(path: str | Path, *, signals: bool = False, memory: int = 2**30) -> Dataset:
    """A .npy file, or a .npz of one array of samples and, as `labels` or `y`, one of their labels.

    Vectors are floats, images uint8 or floats in [0, 1]. Nothing is unpickled. A fixed tenth is
    held out, at least one sample.

    Args:
        path: the file.
        signals: take floats (n, channels, length), or (n, length), for signals.
        memory: of a .npy with more bytes than this, only the rows asked for are read, if they lie
            in it one after the other, as NumPy has them unless told otherwise.
    """
    path = Path(path)
    before, arrange = stamp(path), _signals if signals else _arranged
    array, labels = _read(path, memory)
    whole: Arrays | Rows
    if isinstance(array, np.memmap) and array.flags.c_contiguous:
        whole = Rows(path, array.offset, array.dtype, array.shape, before, arrange)
        _check_values(path, len(whole), whole.between)
    else:
        arranged = arrange(path, array)
        _check_values(path, len(arranged), lambda start, stop: arranged[start:stop])
        numbers = None if labels is None else _checked_labels(path, labels, arranged)
        whole = Arrays(torch.from_numpy(arranged), numbers)

    def source(rows: Tensor) -> Source:
        return Arrays(*whole.take(rows)) if isinstance(whole, Arrays) else Part(whole, rows)

    train, test = hold_out(len(whole), 0.1)
    return Dataset(
        path.stem,
        source(train),
        source(test) if len(test) else None,
        classes=0 if labels is None else int(labels.max()) + 1,
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of an .npy file, read when they are taken.

    They are not mapped: the system kills who reads a mapped file beyond where it was cut short.
    """

    path: Path
    offset: int
    """Where the first row begins."""
    dtype: np.dtype[Any]
    stored: tuple[int, ...]
    """The shape of all, as the file has it."""
    stamp: Stamp
    """Of the file when it was opened first; one that differs later is refused."""
    arrange: Callable[[Path, NDArray[Any]], NDArray[Any]]
    """How rows become samples."""
    levels: int = 256

    def __post_init__(self) -> None:
        _ = self.shape  # refused here if it is none that samples have

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample."""
        native = np.empty((), self.dtype.newbyteorder("="))
        return torch.Size(self.arrange(self.path, np.broadcast_to(native, self.stored)).shape[1:])

    def __len__(self) -> int:
        return self.stored[0]

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, None]:
        """The samples of these indices."""
        return torch.from_numpy(self._read([(i, i + 1) for i in index.tolist()])), None

    def to(self, device: torch.device | str) -> Rows:
        """Itself: the file stays where it is."""
        return self

    def between(self, start: int, stop: int) -> NDArray[Any]:
        """Rows in a row."""
        return self._read([(start, min(stop, len(self)))])

    def _read(self, spans: Sequence[tuple[int, int]]) -> NDArray[Any]:
        rows = np.empty((sum(b - a for a, b in spans), *self.stored[1:]), self.dtype)
        place, size = rows.reshape(-1).view(np.uint8).data, rows[:1].nbytes
        with self.path.open("rb", buffering=0) as file:
            for start, stop in spans:
                file.seek(self.offset + start * size)
                place = place[file.readinto(place[: (stop - start) * size]) or 0 :]
            # at the end, so that what happens meanwhile is seen too
            check_stamp(self.path, self.stamp, file.fileno())
        if place:
            raise OSError(f"{self.path} could not be read to the end of a row")
        return self.arrange(self.path, rows)


def _read(path: Path, memory: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The samples, mapped if they take more bytes of an .npy, and the labels."""
    try:
        with path.open("rb") as file:
            # mapped copy-on-write, for torch warns of an array that it must not write to; from an
            # open file where it cannot be mapped, for of a damaged one numpy leaves its own open
            if path.suffix.lower() == ".npy" and path.stat().st_size > memory:
                found = np.load(path, mmap_mode="c", allow_pickle=False)
            else:
                found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found, None
            with found as archive:
                _check_packed(path, archive.zip.infolist())
                held = {
                    info.filename.removesuffix(".npy"): _member(archive.zip, info)
                    for info in archive.zip.infolist()
                }
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy and zipfile may raise anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{path} cannot be read as arrays of numbers: {reason:.500}") from error
    labels = [held.pop(name) for name in LABELS if name in held]
    if len(held) != 1 or len(labels) > 1:
        raise ValueError(
            f"{path} holds the arrays {', '.join(held) or 'of labels alone'}: give one of samples, "
            f"and one of labels ({' or '.join(LABELS)}) or none"
        )
    return next(iter(held.values())), labels[0] if labels else None


def _check_packed(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse what a small file unpacks to gigabytes, and packings that take memory of their own."""
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
        raise ValueError("it is not packed as numpy does")
    total, size = sum(info.file_size for info in infos), path.stat().st_size
    if total > max(UNPACKED, RATIO * size):
        raise ValueError(
            f"it unpacks to {total:,} bytes from {size:,}; if you trust it, save its arrays by "
            "np.savez, unpacked"
        )


@dataclass(frozen=True)
class _Sips:
    """A packed file, little of it at once: zipfile would unpack as much as it is asked for."""

    file: BufferedIOBase

    def read(self, count: int) -> bytes:
        """Some of so many bytes, none at the end."""
        return self.file.read(min(count, CHUNK))


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        sips: Any = _Sips(cast(BufferedIOBase, file))
        found: NDArray[Any] = np.lib.format.read_array(sips, allow_pickle=False)
        return found


def _arranged(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Samples as (n, size) or (n, channels, height, width)."""
    kind = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    if array.dtype != np.uint8 and not (kind and array.ndim in (2, 3, 4)):
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}: give floats (n, size), or images "
            "of uint8 or floats, (n, height, width) with or without channels"
        )
    if not array.size:
        raise ValueError(f"{path} holds no samples: its shape is {array.shape}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 2 and array.dtype != np.uint8:
        return array
    first, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        raise ValueError(
            f"{path} holds images of shape {array.shape}: give (n, height, width), or with 1 or 3 "
            "channels as the last or as the second axis"
        )
    return array if first else array.transpose(0, 3, 1, 2)


def _signals(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Samples as (n, channels, length)."""
    plain = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    if not (plain and array.ndim in (2, 3) and array.size):
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}: signals are floats (n, channels, "
            "length), or (n, length)"
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array if array.ndim == 3 else array[:, None]


def _check_values(path: Path, n: int, between: Callable[[int, int], NDArray[Any]]) -> None:
    """Finite in float32, which batches are in, and images in [0, 1]; a thousand rows at a time."""
    if between(0, 1).dtype == np.uint8:
        return
    for start in range(0, n, 1000):
        samples = between(start, start + 1000)
        with np.errstate(over="ignore"):
            rows = samples.reshape(len(samples), -1).astype(np.float32, copy=False)
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            raise ValueError(
                f"{path}: row {start + int(finite.argmin())} is not finite in float32; drop it or "
                "mend it"
            )
        if samples.ndim == 4 and not 0 <= rows.min() <= rows.max() <= 1:
            inside = ((rows >= 0) & (rows <= 1)).all(1)
            raise ValueError(
                f"{path}: row {start + int(inside.argmin())} is an image with values from "
                f"{rows.min():.4g} to {rows.max():.4g}; save 8-bit images as uint8, and bring "
                "floats to [0, 1] by x/255 or (x + 1)/2; signals (n, channels, length) need "
                "signals=true (--data.options.signals=true)"
            )


def _checked_labels(path: Path, labels: NDArray[Any], array: NDArray[Any]) -> Tensor:
    whole = labels.dtype.kind in "iu" and labels.shape == array.shape[:1]
    if not whole or labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(
            f"{path} has labels of {labels.dtype} and shape {labels.shape} beside {len(array)} "
            f"samples: give an integer ≥ 0 and below {CLASSES:,} for each"
        )
    return torch.from_numpy(labels.astype(np.int64))
