"""CIFAR-10 (Krizhevsky 2009) from its archive, or from the folder that is in it.

The archive is read in sequence, never unpacked. Its batches are pickles of Python 2, which
`_pickled` interprets without the pickle module and without calling anything in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import torch
from torch import Tensor

from ._pickled import parse_array, parse_pickle
from .download import CHUNK_BYTES, Remote, data_folder, ensure_files, open_file, read_exactly
from .sources import Arrays, Dataset

CIFAR_ARCHIVE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
CIFAR_FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
BATCH_NAMES = (*TRAIN_BATCHES, TEST_BATCH)

IMAGE_BYTES = 3 * 32 * 32
MAX_BATCH_IMAGES = 10_000
MAX_BATCH_BYTES = 2**25
"""The published batches have 31 million."""
MAX_ARCHIVE_BYTES = 2**28
"""Unpacked; the published archive has 186 million."""
TAR_BLOCK = 512


def cifar10(*, root: str | Path | None = None, download: bool = False) -> Dataset:
    """Load 50,000 colour photographs of 32 × 32 pixels to train on and 10,000 held out.

    Args:
        root: cifar-10-python.tar.gz, the folder cifar-10-batches-py, or a folder with either; by
            default data/cifar10.
        download: fetch the archive if neither exists, 170 MB.
    """
    place = data_folder("cifar10", root)
    path = _find_batches(place)
    if path is None:
        ensure_files("CIFAR-10", place, [CIFAR_ARCHIVE], download)
        path = place / CIFAR_ARCHIVE.name
    batches = _read_batches(path)
    missing = [name for name in BATCH_NAMES if name not in batches]
    if missing:
        raise OSError(f"{path} lacks {', '.join(missing)}: download it again")
    images, labels = zip(*(batches[name] for name in TRAIN_BATCHES), strict=True)
    train = Arrays(torch.cat(images), torch.cat(labels))
    return Dataset("cifar10", train, Arrays(*batches[TEST_BATCH]), classes=10)


def _find_batches(place: Path) -> Path | None:
    """Return the archive or the folder of batches."""
    if place.is_file():
        return place.parent if place.name in TRAIN_BATCHES else place
    if (place / TRAIN_BATCHES[0]).exists():
        return place
    paths = (place / CIFAR_FOLDER, place / CIFAR_ARCHIVE.name)
    return next((path for path in paths if path.exists()), None)


def _read_batches(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the batches in a folder or an archive."""
    batches: dict[str, tuple[Tensor, Tensor]] = {}
    if path.is_dir():
        for file in (path / name for name in BATCH_NAMES if (path / name).is_file()):
            with open_file(file) as stream:
                batches[file.name] = _read_batch(stream, file.stat().st_size, str(file))
        return batches
    with open_file(path) as stream:
        for name, size in _tar_members(stream, path):
            batch = name.removeprefix("./").removeprefix(f"{CIFAR_FOLDER}/")
            if batch not in BATCH_NAMES:
                _skip(stream, size)
            elif batch in batches:
                raise OSError(f"{path} holds {name} twice: download it again")
            else:
                batches[batch] = _read_batch(stream, size, f"{path}: {name}")
            _skip(stream, -size % TAR_BLOCK)
    return batches


def _tar_members(stream: BufferedIOBase, path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and size of each plain file of a tar when its content is next."""
    total = 0
    while any(header := bytes(read_exactly(stream, TAR_BLOCK))):
        size = _octal(header[124:136])
        checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if size is None or _octal(header[148:156]) != checksum:
            raise OSError(f"{path} is damaged, a tar header in it is not valid: download it again")
        total += TAR_BLOCK + size
        if total > MAX_ARCHIVE_BYTES:
            raise OSError(f"{path} unpacks to more than {MAX_ARCHIVE_BYTES} bytes: get it again")
        if header[156:157] in b"0\0":
            yield header[:100].partition(b"\0")[0].decode("latin-1"), size
        else:  # folders, links, and extended headers
            _skip(stream, size + -size % TAR_BLOCK)


def _octal(field: bytes) -> int | None:
    text = field.strip(b" \0")
    return int(text, 8) if text.isdigit() and not set(text) & set(b"89") else None


def _skip(stream: BufferedIOBase, count: int) -> None:
    while count > 0:
        count -= len(read_exactly(stream, min(count, CHUNK_BYTES)))


def _read_batch(stream: BufferedIOBase, size: int, name: str) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a pickled batch after checking all of them."""
    if size > MAX_BATCH_BYTES:
        raise OSError(f"{name} has {size} bytes, and a batch at most {MAX_BATCH_BYTES}")
    content = bytes(read_exactly(stream, size))
    try:
        batch = parse_pickle(content)
        images, labels = parse_array(batch["data"]), batch["labels"]
    except Exception as error:  # a foreign pickle may fail anywhere
        reason = f"{str(error) or type(error).__name__:.500}"
        raise OSError(f"{name} is not a batch of CIFAR-10 ({reason}): download it again") from error
    n = images.size // IMAGE_BYTES
    if images.shape != (n, IMAGE_BYTES) or not 1 <= n <= MAX_BATCH_IMAGES:
        raise OSError(f"{name} has images of another size than {IMAGE_BYTES} bytes, or too many")
    valid = type(labels) is list and all(type(k) is int and 0 <= k <= 9 for k in labels)
    if not valid or len(labels) != n:
        raise OSError(f"{name} has {n} images, but not a list of {n} labels from 0 to 9")
    return torch.from_numpy(images.copy()).view(n, 3, 32, 32), torch.tensor(labels)
