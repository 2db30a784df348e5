"""Arrays as samples: vectors, images, volumes or signals; their checks and their labels.

Vectors are (n, size), images (n, h, w), (n, h, w, c) or (n, c, h, w), volumes (n, channels, depth,
height, width). Signals, with `signals=True`, are (n, channels, length), or (n, length) with one
channel.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ..values import data_option
from .sources import MAX_CLASSES, Arrays, Source


def arrange_samples(path: str | Path, signals: bool, array: NDArray[Any]) -> NDArray[Any]:
    """Return samples as (n, size), or (n, channels, ...) of signals, images and volumes."""
    content = f"{path} holds {array.dtype} of shape {array.shape}"
    floats = array.dtype.kind == "f" and array.dtype.itemsize <= 8 and array.ndim in (2, 3, 4, 5)
    if signals and not (floats and array.ndim < 4):
        raise ValueError(f"{content}: signals are floats (n, channels, length), or (n, length)")
    if array.dtype != np.uint8 and not floats:
        shapes = "(n, size), or images (n, height, width) of uint8 or floats"
        raise ValueError(f"{content}: give floats {shapes}")
    if not array.size:
        raise ValueError(f"{content}: it has no samples")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 5 or (array.ndim == (3 if signals else 2) and floats):
        return array
    if array.ndim == 3 or signals:
        return array[:, None]
    second, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, 3))
    if second == last:
        raise ValueError(f"{content}: give (n, height, width), or 1 or 3 channels on axis 1 or 3")
    return array if second else array.transpose(0, 3, 1, 2)


def check_samples(path: str | Path, source: Source, *, images: bool = True) -> None:
    """Check that samples are finite in float32, the type of batches, and `images` in [0, 1]."""
    for start in range(0, len(source), 1000):
        index = torch.arange(start, min(start + 1000, len(source)))
        samples = source.take(index)[0].numpy()
        if samples.dtype == np.uint8:
            return
        with np.errstate(over="ignore"):
            rows = samples.reshape(len(samples), -1).astype(np.float32, copy=False)
        for row, (low, high) in enumerate(zip(rows.min(1), rows.max(1), strict=True), start):
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(f"{path}: row {row} is not finite in float32; correct it")
            if images and samples.ndim > 3 and not 0 <= low <= high <= 1:
                noun = "an image" if samples.ndim == 4 else "a volume"
                raise ValueError(
                    f"{path}: row {row} is {noun} with values from {low:.4g} to {high:.4g}; save "
                    "8-bit images as uint8, bring floats to [0, 1] by x/255 or (x + 1)/2, or read "
                    f"signals by {data_option('signals', True)}"
                )


def number_labels(
    path: str | Path, labels: NDArray[Any] | None, n: int
) -> tuple[Int[Tensor, "n"] | None, tuple[str, ...]]:
    """Return labels as numbers, and the names of the classes: sorted texts, or the numbers."""
    if labels is None:
        return None, ()
    content = f"{path} has labels of {labels.dtype} and shape {labels.shape} for {n} samples"
    names = np.unique(labels) if labels.dtype.kind == "U" else None
    numbers = labels if names is None else np.searchsorted(names, labels)
    whole = n > 0 and numbers.dtype.kind in "iu" and numbers.shape == (n,)
    if not whole or numbers.min() < 0 or numbers.max() >= MAX_CLASSES:
        raise ValueError(f"{content}: give each a name, or an integer ≥ 0, below {MAX_CLASSES:,}")
    classes = range(int(numbers.max()) + 1) if names is None else names
    return torch.from_numpy(numbers.astype(np.int64)), tuple(map(str, classes))


def condition_rows(
    path: str | Path, name: str, signals: bool, values: NDArray[Any] | Tensor
) -> Arrays:
    """Return the rows of a condition: images, signals, vectors, or numbers as vectors of one."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    array = array.astype(np.float32) if array.dtype.kind in "iub" and array.ndim < 3 else array
    array = array[:, None] if array.ndim == 1 else array
    source = Arrays(torch.from_numpy(arrange_samples(f"{path}, {name}", signals, array)))
    check_samples(f"{path}, {name}", source)
    return source
