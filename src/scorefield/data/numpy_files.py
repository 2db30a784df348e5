"""NumPy's files of vectors (n, size), images (n, h, w), (n, h, w, c), (n, c, h, w), and others.

Volumes are (n, channels, depth, height, width). Signals, with `signals=True`, are
(n, channels, length), or (n, length) with one channel.
"""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from .._ops import RowCondition
from ..disk import open_regular
from ..values import data_option, escape_controls
from .column_scan import ColumnScan
from .download import CHUNK_BYTES, PLAIN_METHODS
from .fingerprint import Stamp, check_unchanged, file_stamp
from .sources import (
    MAX_CLASSES,
    Arrays,
    Dataset,
    Labelled,
    Pairs,
    Source,
    check_share,
    choose_condition,
    hold_out,
)
from .table import PLAIN_DECIMALS, Table

LABEL_NAMES = ("labels", "y")
MAX_UNPACKED_BYTES = 2**26
"""Limit of a file that unpacks to more than `MAX_UNPACKED_RATIO` times its size."""
MAX_UNPACKED_RATIO = 100


def numpy_file(
    path: str | Path,
    *,
    signals: bool = False,
    held_out: float | Path = 0.1,
    memory: int = 2**30,
    condition: Sequence[str] = (),
    parameters: Sequence[str] = (),
) -> Dataset:
    """Load a .npy file, or a .npz of one array of samples and, as `labels` or `y`, their labels.

    Vectors are floats, images and volumes uint8 or floats in [0, 1]. Nothing is unpickled. A
    fixed choice of the share `held_out` is held out, at least one sample. With `signals`, floats
    (n, channels, length) or (n, length) are read as signals. From a .npy of more than `memory`
    bytes in C order only the rows in use are read.

    Samples are conditioned on the arrays `condition`, vectors, numbers or images in the same order.
    Of simulations, `parameters` are the arrays to learn, which are standardised like the columns of
    a table, and all others are the condition.
    """
    path = Path(path)
    arrange = partial(arrange_samples, path, signals)
    arrays, stamp = _open_arrays(path, memory)
    names = choose_condition(str(path), [*arrays], condition, parameters)
    others = {name: _condition_rows(path, name, signals, arrays.pop(name)) for name in names}
    if parameters:
        columns = {k: _condition_rows(path, k, False, array).data for k, array in arrays.items()}
        return simulations(columns, others, name=path.stem, held_out=check_share(held_out))
    array, labels = _choose_samples(path, arrays)
    numbers, classes = number_labels(path, labels, len(array))
    source: Source = replace(_as_rows(path, array, stamp, arrange), labels=numbers)
    check_samples(path, source)
    source = Pairs(source, others) if others else source
    return Dataset.split(path.stem, source, hold_out(len(source), held_out), classes=classes)


def open_rows(
    path: Path, arrange: Callable[[NDArray[Any]], NDArray[Any]], memory: int
) -> "Arrays | FileRows":
    """Return the samples of a file, in memory or read when they are taken."""
    arrays, stamp = _open_arrays(path, memory)
    return _as_rows(path, _choose_samples(path, arrays)[0], stamp, arrange)


def _open_arrays(path: Path, memory: int) -> tuple[dict[str, NDArray[Any]], Stamp]:
    with open_regular(path) as file:
        return _read(path, file, memory), file_stamp(file.fileno())


def _as_rows(
    path: Path, array: NDArray[Any], stamp: Stamp, arrange: Callable[[NDArray[Any]], NDArray[Any]]
) -> "Arrays | FileRows":
    if isinstance(array, np.memmap) and array.flags.c_contiguous:
        return FileRows(
            path, array.dtype, array.shape, stamp, arrange, partial(_read_rows, array.offset)
        )
    return Arrays(torch.from_numpy(arrange(array)))


def tensor_data(x: Tensor, condition: RowCondition = None) -> Dataset:
    """Return a tensor of samples as data; it is split as a file of the same samples would be.

    `condition` is a tensor with a row for each sample, or several by name; whole numbers, one a
    sample, are classes.
    """
    images = x.dtype == torch.uint8 and x.ndim in (4, 5)
    if x.ndim < 2 or not (images or x.is_floating_point()):
        raise TypeError(
            f"data is a tensor of {x.dtype} and shape {tuple(x.shape)}: give floats (n, ...), or "
            "images (n, channels, height, width) or volumes (n, channels, depth, height, width) as "
            "uint8"
        )
    tensors = {"condition": condition} if isinstance(condition, Tensor) else {**(condition or {})}
    names = [k for k, v in tensors.items() if v.ndim == 1 and not v.is_floating_point()]
    labels = tensors.pop(names[0]).cpu().numpy() if len(names) == 1 else None
    numbers, classes = number_labels("data", labels, len(x))
    source: Source = Arrays(x.detach().cpu(), numbers)
    check_samples("data", source)
    if tensors:
        source = Pairs(
            source, {k: _condition_rows("data", k, False, v) for k, v in tensors.items()}
        )
    return Dataset.split("tensor", source, hold_out(len(source), 0.1), classes=classes)


def simulations(
    parameters: Mapping[str, Tensor],
    observations: Mapping[str, Source] | Mapping[str, Tensor],
    *,
    name: str = "simulations",
    held_out: float = 0.1,
) -> Dataset:
    """Return simulations as data for p(parameters | observations).

    Parameters are numbers or vectors, a row for each simulation. They are standardised, as the
    columns of a table whose `numbers` turns samples back. The model standardises observations.

    >>> data = simulations({"theta": theta}, {"x": x})
    >>> table, model = data.table, finish(PRESETS["posterior"], "runs/posterior", data=data)
    >>> theta = table.numbers(sample(model, 1000, condition=x[0]))
    """
    columns = dict[str, Tensor]()
    for key, rows in parameters.items():
        numbers = rows.reshape(len(rows), -1).T
        names = [key] if len(numbers) == 1 else [f"{key}_{i}" for i in range(1, len(numbers) + 1)]
        columns |= zip(names, numbers, strict=True)
    values = torch.stack([*columns.values()], 1).double().cpu().numpy()
    split = hold_out(len(values), held_out)
    scans = [ColumnScan(name, kind="real", decimals=PLAIN_DECIMALS + 1) for name in columns]
    train = values[split[0].numpy()].T
    fits = (scan.fit(x, len(values)) for scan, x in zip(scans, train, strict=True))
    table = Table(tuple(fits))
    others = {
        k: _condition_rows(name, k, False, x) if isinstance(x, Tensor) else x
        for k, x in observations.items()
    }
    source = Pairs(Arrays(table.standardise(values)), others)
    check_samples(name, source)
    return Dataset.split(name, source, split, table=table, notices=(str(table),))


def _condition_rows(
    path: str | Path, name: str, signals: bool, values: NDArray[Any] | Tensor
) -> Arrays:
    """Return the rows of a condition: images, signals, vectors, or numbers as vectors of one."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    array = array.astype(np.float32) if array.dtype.kind in "iub" and array.ndim < 3 else array
    array = array[:, None] if array.ndim == 1 else array
    source = Arrays(torch.from_numpy(arrange_samples(f"{path}, {name}", signals, array)))
    check_samples(f"{path}, {name}", source)
    return source


@dataclass(frozen=True, eq=False)
class FileRows(Source):
    """Rows of an array in a file, of the shape `stored` in all.

    `read` fills an array with spans of consecutive rows and returns True if it could; `arrange`
    turns it into samples. A file that has changed since `stamp` is refused.
    """

    path: Path
    dtype: np.dtype[Any]
    stored: tuple[int, ...]
    stamp: Stamp
    arrange: Callable[[NDArray[Any]], NDArray[Any]]
    read: Callable[[BufferedReader, list[NDArray[np.int64]], NDArray[Any]], bool]
    labels: Int[Tensor, "n"] | None = None

    @property
    def shape(self) -> torch.Size:
        """Shape of one sample."""
        number = np.empty((), self.dtype.newbyteorder("="))
        return torch.Size(self.arrange(np.broadcast_to(number, self.stored)).shape[1:])

    def __len__(self) -> int:
        return self.stored[0]

    def take(self, index: Int[Tensor, "batch"]) -> Labelled:
        """Return the samples of these indices and their labels."""
        rows = np.empty((len(index), *self.stored[1:]), self.dtype)
        jumps = np.flatnonzero(index.diff().numpy() != 1) + 1
        with open_regular(self.path) as file:
            whole = self.read(file, np.split(index.numpy(), jumps), rows)
            # at the end, to see changes during the reading too
            check_unchanged(self.path, self.stamp, file.fileno())
        if not whole:
            raise OSError(f"{self.path} could not be read to the end of a row")
        labels = None if self.labels is None else self.labels[index]
        return torch.from_numpy(self.arrange(rows)), labels


def _read_rows(
    offset: int, file: BufferedReader, spans: list[NDArray[np.int64]], rows: NDArray[Any]
) -> bool:
    """Read spans of rows of an .npy file; see `FileRows`.

    The file is not mapped: reading a mapped file beyond a point where it was cut off would end the
    process.
    """
    left, size = rows.reshape(-1).view(np.uint8).data, rows[:1].nbytes
    for span in spans:
        file.seek(offset + int(span[0]) * size)
        left = left[file.readinto(left[: len(span) * size]) or 0 :]
    return not left


def _read(path: Path, file: BufferedReader, memory: int) -> dict[str, NDArray[Any]]:
    """Return the arrays by name, mapped if an .npy has more than `memory` bytes."""
    try:
        size = os.fstat(file.fileno()).st_size
        if file.peek(6)[:6] == b"\x93NUMPY":
            # Mapped in any case, because only then numpy checks the length; copy-on-write,
            # because torch warns of an array that it must not write to.
            mapped = np.load(path, mmap_mode="c", allow_pickle=False)
            return {"": mapped if size > memory else np.load(file, allow_pickle=False)}
        # from an open file, because numpy leaves its own one open at an error
        content = np.load(file, allow_pickle=False)
        with content as archive:
            infos = archive.zip.infolist()
            if not {info.compress_type for info in infos} <= PLAIN_METHODS:
                raise ValueError("it is not compressed as numpy does")
            total = sum(info.file_size for info in infos)
            check_unpacked(total, size)
            return {
                info.filename.removesuffix(".npy"): _read_member(archive.zip, info)
                for info in infos
            }
    except Exception as error:  # numpy and zipfile may raise anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{path} cannot be read as arrays of numbers: {reason:.500}") from error


def _choose_samples(
    path: Path, arrays: dict[str, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the samples, and the labels if there are any."""
    if "" in arrays:  # a .npy file has a single array, without a name
        return arrays[""], None
    labels = [arrays.pop(name) for name in LABEL_NAMES if name in arrays]
    if len(arrays) != 1 or len(labels) > 1:
        others = ", ".join(map(escape_controls, arrays)) or "of labels alone"
        raise ValueError(
            f"{path} holds the arrays {others}: give one, and labels or y if any, or name those "
            "that the samples are conditioned on, by condition=NAME (--data.condition=NAME)"
        )
    return next(iter(arrays.values())), labels[0] if labels else None


def check_unpacked(total: int, size: int) -> None:
    """Refuse a file of `size` bytes that unpacks to a great many more."""
    if total > max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size):
        claim = f"it unpacks to {total:,} bytes from {size:,}"
        raise ValueError(f"{claim}; if you trust it, save its arrays by np.savez")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        # in chunks, because zipfile unpacks as much as it is asked for
        chunks: Any = SimpleNamespace(read=lambda count: file.read(min(count, CHUNK_BYTES)))
        array: NDArray[Any] = np.lib.format.read_array(chunks, allow_pickle=False)
        return array


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
    whole = numbers.dtype.kind in "iu" and numbers.shape == (n,)
    if not whole or numbers.min() < 0 or numbers.max() >= MAX_CLASSES:
        raise ValueError(f"{content}: give each a name, or an integer ≥ 0, below {MAX_CLASSES:,}")
    classes = range(int(numbers.max()) + 1) if names is None else names
    return torch.from_numpy(numbers.astype(np.int64)), tuple(map(str, classes))
