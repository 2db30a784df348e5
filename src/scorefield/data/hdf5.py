"""HDF5 files of the samples that `arrays` describes.

The HDF5 library is in C, and a hostile file may end the process: open only files that you trust.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..disk import name_damage, open_regular
from ..values import data_option, escape_controls, import_extra
from .arrays import arrange_samples, check_samples, number_labels
from .fingerprint import file_stamp
from .numpy_files import FileRows, check_unpacked
from .sources import Arrays, Dataset, Source, hold_out


def hdf5_file(
    path: str | Path,
    *,
    dataset: str | None = None,
    labels: str | None = None,
    signals: bool = False,
    held_out: float | Path = 0.1,
    memory: int = 2**30,
) -> Dataset:
    """Load a dataset of a .h5 or .hdf5 file; its samples are as in `numpy_file`.

    `dataset` is its name, as group/images, by default the only one, and `labels` that of the
    samples' classes, if there are any. From one of more than `memory` bytes only the rows in use
    are read.
    """
    path = Path(path)
    with open_regular(path) as file:
        stamp = file_stamp(file.fileno())
    name = _choose_dataset(path, _dataset_names(path), dataset, labels)
    with _open_hdf5(path) as content:
        array = _own_dataset(content, name, stamp[0])
        kind, shape = array.dtype, array.shape
        values = array[()] if array.nbytes <= memory else None
        classes = None if labels is None else _own_dataset(content, labels, stamp[0])
        if classes is not None:
            text = classes.dtype.kind in "OS"
            classes = classes.asstr()[()].astype(str) if text else classes[()]
    arrange = partial(arrange_samples, path, signals)
    outline = np.broadcast_to(np.empty((), kind.newbyteorder("=")), shape)
    samples = arrange(outline if values is None else values)
    numbers, names = number_labels(path, classes, len(samples))
    source: Source
    if values is None:
        read = partial(_read_spans, path, name)
        source = FileRows(path, kind, shape, stamp, arrange, read, numbers)
    else:
        source = Arrays(torch.from_numpy(samples), numbers)
    check_samples(path, source)
    return Dataset.split(path.stem, source, hold_out(len(source), held_out), classes=names)


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Any]:
    """Yield an open file; the library's errors name it."""
    h5py = import_extra("h5py", "hdf5", str(path))
    with name_damage(f"{path} cannot be read as HDF5"), h5py.File(path, "r") as content:
        yield content


def _dataset_names(path: Path) -> list[str]:
    """Return the names of all datasets in a file."""
    names = list[str]()
    with _open_hdf5(path) as content:
        content.visititems(lambda name, item: names.extend([name] * hasattr(item, "shape")))
    return names


def _choose_dataset(path: Path, names: list[str], dataset: str | None, labels: str | None) -> str:
    """Return the name of the dataset of samples: the one asked for, or the only one."""
    others = [name for name in names if name != labels]
    name = others[0] if dataset is None and len(others) == 1 else dataset
    if name not in names or labels not in (None, *names):
        choices = ", ".join(map(escape_controls, names[:20])) or "none"
        raise ValueError(
            f"dataset={dataset!r}, labels={labels!r}: {path} holds the datasets {choices}; name "
            f"that of the samples by {data_option('dataset', 'NAME')}"
        )
    return name


def _own_dataset(content: Any, name: str, size: int) -> Any:
    """Return a dataset that is in the file itself, of `size` bytes, and not much larger."""
    array = content[name]
    if array.is_virtual or array.external:
        raise ValueError(f"{name!r:.99} is stored in other files")
    check_unpacked(array.nbytes, size)
    return array


def _read_spans(
    path: Path, name: str, file: BufferedReader, spans: list[NDArray[np.int64]], rows: NDArray[Any]
) -> bool:
    """Read spans of rows of a dataset; see `FileRows`."""
    with _open_hdf5(path) as content:
        start = 0
        for span in spans:
            part = rows[start : start + len(span)]
            content[name].read_direct(part, np.s_[span[0] : span[0] + len(span)])
            start += len(span)
    return True
