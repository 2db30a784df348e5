"""NumPy's files of vectors (n, size), images (n, h, w), (n, h, w, c), (n, c, h, w), or signals.

Signals are (n, channels, length), or (n, length) with one channel, and have to be asked for.
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

from .download import CHUNK_BYTES
from .fingerprint import Stamp, check_unchanged, file_stamp
from .sources import Arrays, Dataset, Source, hold_out

LABEL_NAMES = ("labels", "y")
MAX_CLASSES = 2**16
"""A network has parameters for each class."""
MAX_UNPACKED_BYTES = 2**26
"""Limit of an .npz that unpacks to more than `MAX_NPZ_RATIO` times its size."""
MAX_NPZ_RATIO = 100


def numpy_file(path: str | Path, *, signals: bool = False, memory: int = 2**30) -> Dataset:
    """Load a .npy file, or a .npz of one array of samples and, as `labels` or `y`, their labels.

    Vectors are floats, images uint8 or floats in [0, 1]. Nothing is unpickled. A fixed tenth is
    held out, at least one sample.

    Args:
        path: the file.
        signals: read floats (n, channels, length) or (n, length) as signals.
        memory: from a .npy with more bytes than this, only the rows asked for are read, if they
            are stored in C order, NumPy's default.
    """
    path = Path(path)
    stamp, arrange = file_stamp(path), _arrange_signals if signals else _arrange
    array, labels = _read(path, memory)
    source: Source
    if isinstance(array, np.memmap) and array.flags.c_contiguous:
        source = NumpyRows(path, array.offset, array.dtype, array.shape, stamp, arrange)
        _check_values(path, len(source), source.between)
    else:
        samples = arrange(path, array)
        _check_values(path, len(samples), lambda start, stop: samples[start:stop])
        classes = None if labels is None else _check_labels(path, labels, samples)
        source = Arrays(torch.from_numpy(samples), classes)
    number = 0 if labels is None else int(labels.max()) + 1
    return Dataset.split(path.stem, source, hold_out(len(source), 0.1), classes=number)


@dataclass(frozen=True, eq=False)
class NumpyRows(Source):
    """Rows of an .npy file, read when they are taken.

    The file is not mapped: reading a mapped file beyond a point where it was cut off would end the
    process. One that has changed since `stamp` is refused. `stored` is the shape of all rows in the
    file, which `arrange` turns into samples.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    stored: tuple[int, ...]
    stamp: Stamp
    arrange: Callable[[Path, NDArray[Any]], NDArray[Any]]

    def __post_init__(self) -> None:
        _ = self.shape  # refuse a shape that samples cannot have

    @property
    def shape(self) -> torch.Size:
        """Shape of one sample."""
        number = np.empty((), self.dtype.newbyteorder("="))
        return torch.Size(self.arrange(self.path, np.broadcast_to(number, self.stored)).shape[1:])

    def __len__(self) -> int:
        return self.stored[0]

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, None]:
        """Return the samples of these indices."""
        return torch.from_numpy(self._read([(i, i + 1) for i in index.tolist()])), None

    def between(self, start: int, stop: int) -> NDArray[Any]:
        """Return consecutive samples."""
        return self._read([(start, min(stop, len(self)))])

    def _read(self, spans: Sequence[tuple[int, int]]) -> NDArray[Any]:
        rows = np.empty((sum(b - a for a, b in spans), *self.stored[1:]), self.dtype)
        left, size = rows.reshape(-1).view(np.uint8).data, rows[:1].nbytes
        with self.path.open("rb", buffering=0) as file:
            for start, stop in spans:
                file.seek(self.offset + start * size)
                left = left[file.readinto(left[: (stop - start) * size]) or 0 :]
            # at the end, to see changes during the reading too
            check_unchanged(self.path, self.stamp, file.fileno())
        if left:
            raise OSError(f"{self.path} could not be read to the end of a row")
        return self.arrange(self.path, rows)


def _read(path: Path, memory: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the samples, mapped if an .npy has more than `memory` bytes, and the labels."""
    try:
        with path.open("rb") as file:
            # Mapped copy-on-write, because torch warns of an array that it must not write to;
            # otherwise from an open file, because numpy leaves its own one open at an error.
            if path.suffix.lower() == ".npy" and path.stat().st_size > memory:
                content = np.load(path, mmap_mode="c", allow_pickle=False)
            else:
                content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content, None
            with content as archive:
                members = archive.zip.infolist()
                _check_packing(path, members)
                arrays = {
                    info.filename.removesuffix(".npy"): _read_member(archive.zip, info)
                    for info in members
                }
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy and zipfile may raise anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{path} cannot be read as arrays of numbers: {reason:.500}") from error
    labels = [arrays.pop(name) for name in LABEL_NAMES if name in arrays]
    if len(arrays) != 1 or len(labels) > 1:
        raise ValueError(
            f"{path} holds the arrays {', '.join(arrays) or 'of labels alone'}: give one of "
            f"samples, and one of labels ({' or '.join(LABEL_NAMES)}) or none"
        )
    return next(iter(arrays.values())), labels[0] if labels else None


def _check_packing(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse small files that unpack to gigabytes, and compressions that need much memory."""
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
        raise ValueError("it is not packed as numpy does")
    total, size = sum(info.file_size for info in infos), path.stat().st_size
    if total > max(MAX_UNPACKED_BYTES, MAX_NPZ_RATIO * size):
        raise ValueError(
            f"it unpacks to {total:,} bytes from {size:,}; if you trust it, save its arrays by "
            "np.savez, unpacked"
        )


@dataclass(frozen=True)
class _ChunkedFile:
    """A packed file read in chunks, because zipfile unpacks as much as it is asked for."""

    file: BufferedIOBase

    def read(self, count: int) -> bytes:
        """Return at most `count` bytes, none at the end."""
        return self.file.read(min(count, CHUNK_BYTES))


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        chunks: Any = _ChunkedFile(cast(BufferedIOBase, file))
        array: NDArray[Any] = np.lib.format.read_array(chunks, allow_pickle=False)
        return array


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and array.dtype.itemsize <= 8


def _arrange(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Return samples as (n, size) or (n, channels, height, width)."""
    if array.dtype != np.uint8 and not (_is_float(array) and array.ndim in (2, 3, 4)):
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
    second, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, 3))
    if second == last:
        raise ValueError(
            f"{path} holds images of shape {array.shape}: give (n, height, width), or with 1 or 3 "
            "channels as the last or as the second axis"
        )
    return array if second else array.transpose(0, 3, 1, 2)


def _arrange_signals(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Return samples as (n, channels, length)."""
    if not (_is_float(array) and array.ndim in (2, 3) and array.size):
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}: signals are floats (n, channels, "
            "length), or (n, length)"
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array if array.ndim == 3 else array[:, None]


def _check_values(path: Path, n: int, between: Callable[[int, int], NDArray[Any]]) -> None:
    """Check that samples are finite in float32, the type of batches, and images in [0, 1]."""
    if between(0, 1).dtype == np.uint8:
        return
    for start in range(0, n, 1000):
        samples = between(start, start + 1000)
        with np.errstate(over="ignore"):
            rows = samples.reshape(len(samples), -1).astype(np.float32, copy=False)
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            raise ValueError(
                f"{path}: row {start + int(finite.argmin())} is not finite in float32; remove it "
                "or correct it"
            )
        if samples.ndim == 4 and not 0 <= rows.min() <= rows.max() <= 1:
            inside = ((rows >= 0) & (rows <= 1)).all(1)
            raise ValueError(
                f"{path}: row {start + int(inside.argmin())} is an image with values from "
                f"{rows.min():.4g} to {rows.max():.4g}; save 8-bit images as uint8, and bring "
                "floats to [0, 1] by x/255 or (x + 1)/2; signals (n, channels, length) need "
                "signals=true (--data.options.signals=true)"
            )


def _check_labels(path: Path, labels: NDArray[Any], samples: NDArray[Any]) -> Tensor:
    whole = labels.dtype.kind in "iu" and labels.shape == samples.shape[:1]
    if not whole or labels.min() < 0 or labels.max() >= MAX_CLASSES:
        raise ValueError(
            f"{path} has labels of {labels.dtype} and shape {labels.shape} for {len(samples)} "
            f"samples: give an integer ≥ 0 and below {MAX_CLASSES:,} for each"
        )
    return torch.from_numpy(labels.astype(np.int64))
