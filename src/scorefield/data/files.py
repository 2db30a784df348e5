"""NumPy's files: vectors (n, size), images (n, h, w), (n, h, w, c) or (n, c, h, w), or signals.

Signals are (n, channels, length), or (n, length) of one channel, and have to be asked for.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset import Dataset
from .source import Arrays, Part, Source, hold_out

LABELS = ("labels", "y")


def numpy_file(path: str | Path, *, signals: bool = False, memory: int = 2**30) -> Dataset:
    """A .npy file, or a .npz of one array of samples and, as `labels` or `y`, one of their labels.

    Vectors are floats, images uint8 or floats in [0, 1]. Nothing is unpickled. A fixed tenth is
    held out, at least one sample.

    Args:
        path: the file.
        signals: take floats (n, channels, length), or (n, length), for signals.
        memory: of a .npy with more bytes than this, only the rows asked for are read.
    """
    path = Path(path)
    array, labels = _read(path)
    array = _signals(path, array) if signals else _arranged(path, array)
    _check_values(path, array)
    numbers = None if labels is None else torch.from_numpy(_checked_labels(path, labels, array))
    whole = Arrays(torch.from_numpy(array), numbers)

    def source(rows: torch.Tensor) -> Source:
        return Arrays(*whole.take(rows)) if array.nbytes <= memory else Part(whole, rows)

    train, test = hold_out(len(whole), 0.1)
    return Dataset(
        path.stem,
        source(train),
        source(test) if len(test) else None,
        classes=0 if numbers is None else int(numbers.max()) + 1,
    )


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The samples, mapped where that can be, and the labels."""
    try:
        with path.open("rb") as file:
            # mapped copy-on-write, for torch warns of an array that it must not write to; from an
            # open file where it cannot be mapped, for of a damaged one numpy leaves its own open
            if path.suffix.lower() == ".npy":
                found = np.load(path, mmap_mode="c", allow_pickle=False)
            else:
                found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found, None
            with found as archive:
                held = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
        raise OSError(f"{path} cannot be read as arrays of numbers: {error}") from error
    labels = [held.pop(name) for name in LABELS if name in held]
    if len(held) != 1 or len(labels) > 1:
        raise ValueError(
            f"{path} holds the arrays {', '.join(held) or 'of labels alone'}: give one of samples, "
            f"and one of labels ({' or '.join(LABELS)}) or none"
        )
    return next(iter(held.values())), labels[0] if labels else None


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


def _check_values(path: Path, array: NDArray[Any]) -> None:
    """Finite in float32, which batches are in, and images in [0, 1]; a thousand rows at a time."""
    if array.dtype == np.uint8:
        return
    for start in range(0, len(array), 1000):
        with np.errstate(over="ignore"):
            rows = array[start : start + 1000].reshape(len(array[start : start + 1000]), -1)
            rows = rows.astype(np.float32, copy=False)
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            raise ValueError(
                f"{path}: row {start + int(finite.argmin())} is not finite in float32; drop it or "
                "mend it"
            )
        if array.ndim == 4 and not 0 <= rows.min() <= rows.max() <= 1:
            inside = ((rows >= 0) & (rows <= 1)).all(1)
            raise ValueError(
                f"{path}: row {start + int(inside.argmin())} is an image with values from "
                f"{rows.min():.4g} to {rows.max():.4g}; save 8-bit images as uint8, and bring "
                "floats to [0, 1] by x/255 or (x + 1)/2; signals (n, channels, length) need "
                "signals=true (--data.options.signals=true)"
            )


def _checked_labels(path: Path, labels: NDArray[Any], array: NDArray[Any]) -> NDArray[np.int64]:
    whole = labels.dtype.kind in "iu" and labels.shape == array.shape[:1]
    if not whole or labels.min() < 0:
        raise ValueError(
            f"{path} has labels of {labels.dtype} and shape {labels.shape} beside {len(array)} "
            "samples: give an integer ≥ 0 for each"
        )
    return labels.astype(np.int64)
