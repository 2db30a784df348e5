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
from typing import Any

from .batches import Batch, Batches
from .bundled import digits, photos
from .celeba import celeba
from .cifar import cifar10
from .dataset import Dataset
from .files import numpy_file
from .folder import folder
from .hub import hub
from .idx import mnist
from .pictures import Pictures
from .source import Arrays, Crops, Part, Source, everything, moments
from .stream import Stream
from .toys import checkerboard, mixture, rings, spirals, subspace

__all__ = [
    "DATASETS",
    "HUB",
    "PUBLISHED",
    "Arrays",
    "Batch",
    "Batches",
    "Crops",
    "Dataset",
    "Part",
    "Pictures",
    "Source",
    "Stream",
    "everything",
    "load",
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
}
"""All data that has a name; each function says what its options are."""

FILES: dict[str, Callable[..., Dataset]] = {".npy": numpy_file, ".npz": numpy_file}
"""What a file is read with, by its extension."""

PUBLISHED: dict[str, Callable[..., Dataset]] = {
    "train-images-idx3-ubyte.gz": mnist,
    "train-images-idx3-ubyte": mnist,
    "cifar-10-python.tar.gz": cifar10,
    "cifar-10-batches-py": cifar10,
    "data_batch_1": cifar10,
    "img_align_celeba": celeba,
    "img_align_celeba.zip": celeba,
}
"""What a path is read with that is called so, or a folder with one that is."""
HUB = "hub:"
"""What the names of the Hugging Face Hub begin with here."""


def load(name: str | Path, **options: Any) -> Dataset:
    """The data set of a name, or what a folder of images, a .npy or a .npz holds.

    Args:
        name: one of `DATASETS`, hub:owner/name, or a path, of published files too. A folder that
            is called like one of them is `./digits`.
        options: those of the function in `DATASETS`, of `hub`, `folder` or `numpy_file`.
    """
    path = Path(name)
    if isinstance(name, str) and name.startswith(HUB):
        return _checked(hub, options)(name.removeprefix(HUB), **options)
    if isinstance(name, str) and name in DATASETS:
        return _checked(DATASETS[name], options)(**options)
    if path.suffix.lower() in FILES and not path.is_dir():
        return _checked(FILES[path.suffix.lower()], options)(path, **options)
    if (published := _published(path)) is not None:
        return _checked(published, options)(**{"root": path, **options})
    if path.is_dir():
        return _checked(folder, options)(path, **options)
    raise ValueError(
        f"name={str(name)!r} is neither a folder nor a file of {' or '.join(FILES)}, nor one of "
        f"the names {', '.join(DATASETS)} or {HUB}OWNER/NAME"
    )


def _published(path: Path) -> Callable[..., Dataset] | None:
    """The reader of published data, if a path is theirs."""
    called = PUBLISHED.get(path.name) if path.exists() else None
    within = (read for name, read in PUBLISHED.items() if (path / name).exists())
    return called or next(within, None)


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
