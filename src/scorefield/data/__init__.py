"""Data by name, or from a folder of images or a file of arrays; batches of it by step.

dataset = load("digits")
batches = Batches(dataset.train, size=128)
x, labels = batches(0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

from .batches import Batch, Batches
from .bundled import digits, photos
from .dataset import Dataset
from .files import numpy_file
from .fingerprint import difference, of_file, of_folder, of_samples
from .folder import Folder, folder, image_names
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
    "difference",
    "everything",
    "files_of",
    "load",
    "moments",
    "of_samples",
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
    path = Path(name)
    if isinstance(name, str) and name in DATASETS:
        read = DATASETS[name]
        return read(**_checked(read, options))
    if path.suffix.lower() in FILES and not path.is_dir():
        read = FILES[path.suffix.lower()]
        return read(path, **_checked(read, options))
    if path.is_dir():
        return folder(path, **_checked(folder, options))
    raise ValueError(
        f"name={str(name)!r} is neither a folder nor a file of {' or '.join(FILES)}, nor one of "
        f"the names {', '.join(DATASETS)}"
    )


def files_of(name: str) -> dict[str, str]:
    """What the files of data are known by, so that others are told from them; none of a name's."""
    path = Path(name)
    if name in DATASETS:
        return {}
    return of_folder(path, image_names(path)) if path.is_dir() else of_file(path)


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


def _typed(name: str, value: object, hint: Any) -> object:
    """A value of a reader's type: all of them are whole numbers, or true and false."""
    allowed = get_args(hint) or (hint,)
    if value is None and type(None) in allowed:
        return None
    if bool in allowed or isinstance(value, bool):
        if bool in allowed and isinstance(value, bool):
            return value
    elif isinstance(value, (int, float)) and float(value).is_integer():
        return int(value)  # YAML has 1e6 for a float
    kind = "true or false" if bool in allowed else "a whole number"
    raise ValueError(f"data option {name}={value!r}: give {kind}")
