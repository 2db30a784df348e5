"""Data by name, from a folder of images, a file of arrays or a table; batches of it by step.

    dataset = load_data("digits")
    batches = Batches(dataset.train, size=128)
    x, labels = batches(0)

A source returns samples by index; a data set is a source to train on and one held out.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ..values import HUB_PREFIX, convert_arguments, spelling_hint
from .augment import AUGMENTATION, AUGMENTATION_SIZE
from .autoencoder import LATENTS_FILE, Latents
from .batches import Batches, LabelledBatch, dequantise
from .bundled import breast_cancer, digits, photos, wine
from .celeba import celeba
from .cifar import CIFAR_PLACES, cifar10
from .csv_table import TABLE_SUFFIXES, table_file
from .decode import EncodedImage
from .download import data_folder
from .fingerprint import describe_changes, fingerprint_path, fingerprint_samples
from .hdf5 import hdf5_file
from .hub import hub
from .images import ImageReader, folder, image_names
from .in_memory import simulations, tensor_data
from .latents import about_latents, encode, encoded_file
from .mnist import mnist
from .numpy_files import numpy_file
from .sources import (
    Arrays,
    Crops,
    Dataset,
    Pairs,
    Part,
    Source,
    Stream,
    all_samples,
    cell_centres,
    choose_rows,
    condition_shapes,
)
from .table import TABLE_FILE, Table
from .toys import checkerboard, mixture, rings, signals, spirals, subspace, two_moons

__all__ = [
    "AUGMENTATION",
    "AUGMENTATION_SIZE",
    "DATASETS",
    "HUB_PREFIX",
    "IN_MEMORY",
    "LATENTS_FILE",
    "PUBLISHED_FILES",
    "TABLE_FILE",
    "TABLE_SUFFIXES",
    "Arrays",
    "Batches",
    "Crops",
    "Dataset",
    "EncodedImage",
    "ImageReader",
    "LabelledBatch",
    "Latents",
    "Pairs",
    "Part",
    "Source",
    "Stream",
    "Table",
    "all_samples",
    "cell_centres",
    "choose_rows",
    "condition_shapes",
    "data_folder",
    "dequantise",
    "describe_changes",
    "encode",
    "find_loader",
    "fingerprint_files",
    "fingerprint_samples",
    "load_data",
    "simulations",
    "tensor_data",
]

Loader = Callable[..., Dataset]

LOADERS = (
    *(digits, photos, mnist, cifar10, celeba, rings, spirals, checkerboard, mixture, subspace),
    *(signals, two_moons, wine, breast_cancer),
)
DATASETS: dict[str, Loader] = {loader.__name__.replace("_", "-"): loader for loader in LOADERS}
"""Data sets by name; the keyword arguments of each function are its options."""

FILE_LOADERS: dict[str, Loader] = {
    **dict.fromkeys((".npy", ".npz"), numpy_file),
    **dict.fromkeys((".h5", ".hdf5"), hdf5_file),
    **dict.fromkeys(TABLE_SUFFIXES, table_file),
}

PUBLISHED_FILES: dict[str, Loader] = {
    **dict.fromkeys(("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"), mnist),
    **dict.fromkeys(CIFAR_PLACES, cifar10),
    **dict.fromkeys(("img_align_celeba", "img_align_celeba.zip"), celeba),
}
"""Loaders of paths with these names, and of folders that hold one."""
MAX_NEARBY = 1000
"""Largest number of neighbours to which the name of a missing file is compared."""
IN_MEMORY = ":memory:"
"""Source of data that were given in Python, which has no other name."""


def load_data(name: str | Path, **options: Any) -> Dataset:
    """Load data by a name in `DATASETS`, by hub:owner/name, or from a path.

    The path is that of a folder of images, of a file whose suffix is in `FILE_LOADERS`, or of
    published files; a folder with the name of a data set is ./digits. Options are those of the
    function in `DATASETS`, in `FILE_LOADERS`, or of `hub` or `folder`.
    """
    loader = find_loader(name)
    return loader(**convert_arguments(loader, options, f"{loader.func.__name__} option "))


def find_loader(name: str | Path) -> partial[Dataset]:
    """Return the function that loads the data; its keyword arguments are their options."""
    path = Path(name)
    if isinstance(name, str) and name.startswith(HUB_PREFIX):
        return partial(hub, name.removeprefix(HUB_PREFIX))
    if isinstance(name, str) and name in DATASETS:
        return partial(DATASETS[name])
    if about_latents(path):
        return partial(encoded_file, name)
    if path.suffix.lower() in FILE_LOADERS and path.exists() and not path.is_dir():
        return partial(FILE_LOADERS[path.suffix.lower()], name)
    if (published := _published_loader(path)) is not None:
        return partial(published, root=path)
    if not path.is_dir():
        nearby = [str(place) for place in islice(path.parent.glob("*"), MAX_NEARBY)]
        if "/" in str(name) and not path.exists():  # no name of a data set was meant
            hint = spelling_hint(str(name), nearby) if nearby else f"{path.parent} holds nothing"
            raise ValueError(f"name={str(name)!r} does not exist: {hint}")
        hint = spelling_hint(str(name), [*DATASETS, f"{HUB_PREFIX}OWNER/NAME"], nearby)
        raise ValueError(
            f"name={str(name)!r} is neither a folder nor a {', '.join(FILE_LOADERS)} file, nor "
            f"the name of a data set: {hint}"
        )
    return partial(folder, name)


def _published_loader(path: Path) -> Loader | None:
    """Return the loader of a path to published data."""
    places = (path, *(path / name for name in PUBLISHED_FILES))
    existing = (place.name for place in places if place.exists())
    return next((PUBLISHED_FILES[name] for name in existing if name in PUBLISHED_FILES), None)


def fingerprint_files(
    name: str, held_out: object = None, condition: Sequence[str] = ()
) -> dict[str, str]:
    """Return fingerprints of a path's files, and of folders held out or conditioned on.

    Named data have none.
    """
    path = Path(name)
    named = name in (*DATASETS, IN_MEMORY) or name.startswith(HUB_PREFIX)
    if named or _published_loader(path) is not None:
        return {}
    files = fingerprint_path(path, image_names(path) if path.is_dir() else ())
    if about := about_latents(path):
        (mark,) = files.values()
        files = {path.name: f"{mark} {zlib.crc32(repr(about).encode()):08x}"}
    if isinstance(held_out, str):
        others = fingerprint_path(Path(held_out), image_names(Path(held_out)))
        files |= {f"held out: {file}": mark for file, mark in others.items()}
    for place in map(Path, condition if path.is_dir() else ()):  # other conditions are in the file
        others = fingerprint_path(place, image_names(place))
        label = f"condition {place.resolve().name}"
        files |= {f"{label}: {file}": mark for file, mark in others.items()}
    return files
