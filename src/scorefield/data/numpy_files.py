"""NumPy's files of the samples that `arrays` describes."""

import os
import zipfile
from collections.abc import Callable, Sequence
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

from ..disk import name_damage, open_regular
from ..values import escape_controls
from .arrays import arrange_samples, check_samples, condition_rows, number_labels
from .download import CHUNK_BYTES, PLAIN_METHODS
from .fingerprint import Stamp, check_unchanged, file_stamp
from .in_memory import simulations
from .sources import (
    Arrays,
    Dataset,
    Labelled,
    Pairs,
    Source,
    check_share,
    choose_condition,
    hold_out,
)

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
    others = {name: condition_rows(path, name, signals, arrays.pop(name)) for name in names}
    if parameters:
        columns = {k: condition_rows(path, k, False, array).data for k, array in arrays.items()}
        return simulations(columns, others, name=path.stem, held_out=check_share(held_out))
    array, labels = _choose_samples(path, arrays)
    rows = _as_rows(path, array, stamp, arrange)
    numbers, classes = number_labels(path, labels, len(rows))
    source: Source = replace(rows, labels=numbers)
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
    size = os.fstat(file.fileno()).st_size
    with name_damage(f"{path} cannot be read as arrays of numbers"):
        first = file.peek(6)[:6]
        if first == b"\x93NUMPY":
            # Mapped in any case, because only then numpy checks the length; copy-on-write,
            # because torch warns of an array that it must not write to.
            mapped = np.load(path, mmap_mode="c", allow_pickle=False)
            return {"": mapped if size > memory else np.load(file, allow_pickle=False)}
        if not first.startswith(b"PK"):  # which numpy would advise to unpickle
            raise ValueError("it is neither an .npy nor an .npz file, whatever its name")
        # from an open file, because numpy leaves its own one open at an error
        content = np.load(file, allow_pickle=False)
        with content as archive:
            infos = archive.zip.infolist()
            if not {info.compress_type for info in infos} <= PLAIN_METHODS:
                raise ValueError("it is not compressed as numpy does")
            check_unpacked(sum(info.file_size for info in infos), size)
            names = [info.filename.removesuffix(".npy") for info in infos]
            return {
                name: _read_member(archive.zip, info)
                for name, info in zip(names, infos, strict=True)
            }


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
