"""Data by name, or from a folder of images or a file of arrays; batches of it by step.

dataset = load("digits")
batches = Batches(dataset.train, size=128)
x, labels = batches(0)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .batches import Batch, Batches
from .bundled import digits, photos
from .dataset import Dataset
from .files import numpy_file
from .folder import Folder, folder
from .source import Arrays, Crops, Part, Source, everything, moments
from .toys import checkerboard, mixture, rings, spirals, subspace

__all__ = [
    "DATASETS",
    "Arrays",
    "Batch",
    "Batches",
    "Crops",
    "Dataset",
    "Folder",
    "Part",
    "Source",
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
}
"""All data that has a name; each function says what its options are."""

FILES: dict[str, Callable[..., Dataset]] = {".npy": numpy_file, ".npz": numpy_file}
"""What a file is read with, by its extension."""


def load(name: str | Path, **options: Any) -> Dataset:
    """The data set of a name, or what a folder of images, a .npy or a .npz holds.

    Args:
        name: one of `DATASETS`, or a path. A folder that is called like one of them is `./digits`.
        options: those of the function in `DATASETS`, of `folder` or of `numpy_file`.
    """
    if isinstance(name, str) and name in DATASETS:
        return DATASETS[name](**options)
    path = Path(name)
    if path.suffix.lower() in FILES and not path.is_dir():
        return FILES[path.suffix.lower()](path, **options)
    if path.is_dir():
        return folder(path, **options)
    raise ValueError(
        f"name={str(name)!r} is neither a folder nor a file of {' or '.join(FILES)}, nor one of "
        f"the names {', '.join(DATASETS)}"
    )
