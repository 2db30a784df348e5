"""Data by name, or from a folder of images, a file of arrays or a table; batches of it by step.

dataset = load_data("digits")
batches = Batches(dataset.train, size=128)
x, labels = batches(0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .batches import Batch, Batches
from .bundled import breast_cancer, digits, photos, wine
from .celeba import celeba
from .cifar import cifar10
from .dataset import Dataset
from .delimited import csv_file
from .files import numpy_file
from .fingerprint import describe_changes, fingerprint_samples, of_file, of_folder
from .folder import folder, listed
from .hub import hub
from .idx import mnist
from .pictures import Pictures
from .source import Arrays, Crops, Part, Source, all_samples, moments
from .stream import Stream
from .table import TABLE_FILE, Table
from .toys import checkerboard, mixture, rings, signals, spirals, subspace

__all__ = [
    "DATASETS",
    "HUB_PREFIX",
    "PUBLISHED_FILES",
    "TABLE_FILE",
    "Arrays",
    "Batch",
    "Batches",
    "Crops",
    "Dataset",
    "Part",
    "Pictures",
    "Source",
    "Stream",
    "Table",
    "all_samples",
    "describe_changes",
    "fingerprint_files",
    "fingerprint_samples",
    "load_data",
    "moments",
]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "photos": photos,
    "mnist": mnist,
    "cifar10": cifar10,
    "celeba": celeba,
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

FILE_READERS: dict[str, Callable[..., Dataset]] = {
    ".npy": numpy_file,
    ".npz": numpy_file,
    ".csv": csv_file,
    ".tsv": csv_file,
}
"""What a file is read with, by its extension."""

PUBLISHED_FILES: dict[str, Callable[..., Dataset]] = {
    "train-images-idx3-ubyte.gz": mnist,
    "train-images-idx3-ubyte": mnist,
    "cifar-10-python.tar.gz": cifar10,
    "cifar-10-batches-py": cifar10,
    "data_batch_1": cifar10,
    "img_align_celeba": celeba,
    "img_align_celeba.zip": celeba,
}
"""What a path is read with that is called so, or a folder with one that is."""
HUB_PREFIX = "hub:"
"""What the names of the Hugging Face Hub begin with here."""


def load_data(name: str | Path, **options: Any) -> Dataset:
    """The data set of a name, or what a folder of images, a .npy, .npz, .csv or .tsv holds.

    Args:
        name: one of `DATASETS`, hub:owner/name, or a path, of published files too. A folder that
            is called like one of them is `./digits`.
        options: those of the function in `DATASETS`, of `hub`, `folder`, `numpy_file` or
            `csv_file`.
    """
    path = Path(name)
    if isinstance(name, str) and name.startswith(HUB_PREFIX):
        return hub(name.removeprefix(HUB_PREFIX), **_checked(hub, options))
    if isinstance(name, str) and name in DATASETS:
        read = DATASETS[name]
        return read(**_checked(read, options))
    if path.suffix.lower() in FILE_READERS and not path.is_dir():
        read = FILE_READERS[path.suffix.lower()]
        return read(path, **_checked(read, options))
    if (published := _published(path)) is not None:
        return published(**{"root": path, **_checked(published, options)})
    if path.is_dir():
        return folder(path, **_checked(folder, options))
    raise ValueError(
        f"name={str(name)!r} is neither a folder nor a file of {' or '.join(FILE_READERS)}, nor "
        f"one of the names {', '.join(DATASETS)} or {HUB_PREFIX}OWNER/NAME"
    )


def _published(path: Path) -> Callable[..., Dataset] | None:
    """The reader of published data, if a path is theirs."""
    called = PUBLISHED_FILES.get(path.name) if path.exists() else None
    within = (read for name, read in PUBLISHED_FILES.items() if (path / name).exists())
    return called or next(within, None)


def fingerprint_files(name: str) -> dict[str, str]:
    """What the files of data are known by, so that others are told from them; none of a name's."""
    path = Path(name)
    if name in DATASETS or name.startswith(HUB_PREFIX) or _published(path) is not None:
        return {}
    return of_folder(path, listed(path)) if path.is_dir() else of_file(path)


def _checked(read: Callable[..., Dataset], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, if the reader knows all of them, in its types."""
    known = [p.name for p in signature(read).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, 1)
            there = f"there are {', '.join(known)}" if known else "it has none"
            hint = f"did you mean {close[0]}?" if close else there
            raise ValueError(f"{read.__name__} has no option {name}: {hint}")
    hints = get_type_hints(read)
    return {name: _typed(name, value, hints[name]) for name, value in options.items()}


KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    Path: "a path",
}
"""What options are, in words; readers check others themselves."""


def _typed(name: str, value: object, hint: Any) -> object:
    """A value of a reader's type."""
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    right = type(value) in allowed or (isinstance(value, Path) and Path in allowed)
    if right or not set(allowed) <= {*KINDS, type(None)}:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if float in allowed:
            return float(value)
        if int in allowed and float(value).is_integer():
            return int(value)  # YAML has 1e6 for a float
    kinds = " or ".join(KINDS[kind] for kind in allowed if kind in KINDS)
    raise ValueError(f"data option {name}={value!r}: give {kinds}")
