"""Data by name, or from a folder of images, a file of arrays or a table; batches of it by step.

dataset = load("digits")
batches = Batches(dataset.train, size=128)
x, labels = batches(0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from .batches import Batch, Batches
from .bundled import breast_cancer, digits, photos, wine
from .dataset import Dataset
from .delimited import csv_file
from .files import numpy_file
from .folder import Folder, folder
from .source import Arrays, Crops, Part, Source, everything, moments
from .table import FILE as TABLE
from .table import Table
from .toys import checkerboard, mixture, rings, signals, spirals, subspace

__all__ = [
    "DATASETS",
    "TABLE",
    "Arrays",
    "Batch",
    "Batches",
    "Crops",
    "Dataset",
    "Folder",
    "Part",
    "Source",
    "Table",
    "everything",
    "load",
    "moments",
]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "photos": photos,
    "rings": rings,
    "spirals": spirals,
    "checkerboard": checkerboard,
    "mixture": mixture,
    "subspace": subspace,
    "signals": signals,
    "wine": wine,
    "breast-cancer": breast_cancer,
}
"""All data that has a name; each function says what its options are."""

FILES: dict[str, Callable[..., Dataset]] = {
    ".npy": numpy_file,
    ".npz": numpy_file,
    ".csv": csv_file,
    ".tsv": csv_file,
}
"""What a file is read with, by its extension."""


def load(name: str | Path, **options: Any) -> Dataset:
    """The data set of a name, or what a folder of images, a .npy, .npz, .csv or .tsv holds.

    Args:
        name: one of `DATASETS`, or a path. A folder that is called like one of them is `./digits`.
        options: those of the function in `DATASETS`, of `folder`, of `numpy_file` or of
            `csv_file`.
    """
    path = Path(name)
    if isinstance(name, str) and name in DATASETS:
        return _checked(DATASETS[name], options)(**options)
    if path.suffix.lower() in FILES and not path.is_dir():
        return _checked(FILES[path.suffix.lower()], options)(path, **options)
    if path.is_dir():
        return _checked(folder, options)(path, **options)
    raise ValueError(
        f"name={str(name)!r} is neither a folder nor a file of {' or '.join(FILES)}, nor one of "
        f"the names {', '.join(DATASETS)}"
    )


def _checked(read: Callable[..., Dataset], options: Mapping[str, Any]) -> Callable[..., Dataset]:
    """The reader, if it knows all of these options."""
    known = [p.name for p in signature(read).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, 1)
            there = f"there are {', '.join(known)}" if known else "it has none"
            hint = f"did you mean {close[0]}?" if close else there
            raise ValueError(f"{read.__name__} has no option {name}: {hint}")
    return read
