"""CIFAR-10 (Krizhevsky 2009) from its archive, or from the folder that is in it.

The archive is walked through, never unpacked. Its batches are pickles of Python 2, of which the
operations that make numbers, strings, lists and dictionaries are done here, one by one: no pickle
module reads them, and nothing in them is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import torch
from torch import Tensor

from ._pickled import array, unpickled
from .dataset import Dataset
from .published import CHUNK, Remote, exactly, home, opened, provided
from .source import Arrays

ARCHIVE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
FOLDER = "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"

SIZE = 3 * 32 * 32
COUNT = 10_000
"""Images in a batch, at most."""
MEMBER = 2**25
"""Bytes of a batch, at most; they have 31 million."""
TOTAL = 2**28
"""Bytes of the whole archive, at most; it has 186 million."""
BLOCK = 512
"""Of a tar file."""


def cifar10(*, root: str | Path | None = None, download: bool = False) -> Dataset:
    """50,000 photographs of 32 × 32 pixels in colour to train on, 10,000 held out, as published.

    Args:
        root: cifar-10-python.tar.gz, the folder cifar-10-batches-py, or a folder with either;
            data/cifar10 if not given.
        download: fetch the archive if neither is there, 170 MB.
    """
    place = home("cifar10", root)
    found = _there(place)
    if found is None:
        provided("CIFAR-10", place, [ARCHIVE], download)
        found = place / ARCHIVE.name
    batches = _of_folder(found) if found.is_dir() else _of_archive(found)
    missing = [name for name in (*TRAIN, TEST) if name not in batches]
    if missing:
        raise OSError(f"{found} lacks {', '.join(missing)}: get it anew")
    images, labels = zip(*(batches[name] for name in TRAIN), strict=True)
    train = Arrays(torch.cat(images), torch.cat(labels))
    return Dataset("cifar10", train, Arrays(*batches[TEST]), classes=10)


def _there(place: Path) -> Path | None:
    if place.is_file():
        return place.parent if place.name in TRAIN else place
    known = (place / FOLDER, place / ARCHIVE.name)
    return place if (place / TRAIN[0]).exists() else next((p for p in known if p.exists()), None)


def _of_folder(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in (*TRAIN, TEST):
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size > MEMBER:
            raise OSError(f"{path} has {path.stat().st_size} bytes, a batch {MEMBER} at most")
        found[name] = _batch(path.read_bytes(), str(path))
    return found


# ── The archive ──────────────────────────────────────────────────────────────────────────────────


def _of_archive(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with opened(path) as stream:
        for name, size in _members(stream, path):
            batch = name.removeprefix("./").removeprefix(f"{FOLDER}/")
            if batch not in (*TRAIN, TEST):
                _skip(stream, size)
            elif batch in found or size > MEMBER:
                raise OSError(f"{path} holds {name} twice, or with more than {MEMBER} bytes")
            else:
                found[batch] = _batch(bytes(exactly(stream, size)), f"{path}: {name}")
            _skip(stream, -size % BLOCK)
    return found


def _members(stream: BufferedIOBase, path: Path) -> Iterator[tuple[str, int]]:
    """The name and size of each plain file of a tar, when its content comes next."""
    total = 0
    while header := bytes(exactly(stream, BLOCK)).rstrip(b"\0"):
        header = header.ljust(BLOCK, b"\0")
        size = _octal(header[124:136])
        summed = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if size is None or _octal(header[148:156]) != summed:
            raise OSError(f"{path} is damaged, a header in it is none of a tar's: get it anew")
        total += BLOCK + size
        if total > TOTAL:
            raise OSError(f"{path} unpacks to more than {TOTAL} bytes: get it anew")
        if header[156:157] in b"0\0":
            yield header[:100].partition(b"\0")[0].decode("latin-1"), size
        else:  # folders, links, and what says more of the next file
            _skip(stream, size + -size % BLOCK)


def _octal(field: bytes) -> int | None:
    text = field.strip(b" \0")
    return int(text, 8) if text.isdigit() and not set(text) & set(b"89") else None


def _skip(stream: BufferedIOBase, count: int) -> None:
    while count > 0:
        count -= len(exactly(stream, min(count, CHUNK)))


# ── A batch ──────────────────────────────────────────────────────────────────────────────────────


def _batch(content: bytes, name: str) -> tuple[Tensor, Tensor]:
    """Images and labels of a pickled batch, every number of it checked."""
    try:
        held = unpickled(content)
        images, labels = array(held["data"]), held["labels"]
    except Exception as error:  # what is not such a pickle may fail anywhere in it
        reason = str(error) or type(error).__name__
        raise OSError(f"{name} is no batch of CIFAR-10 ({reason:.500}): get it anew") from error
    count = len(images.content) // SIZE
    whole = len(images.content) == count * SIZE and images.shape == (count, SIZE)
    if not whole or not 1 <= count <= COUNT:
        raise OSError(f"{name} has images of another size than {SIZE} bytes each, or too many")
    if type(labels) is not list or len(labels) != count:
        raise OSError(f"{name} has {count} images, but not a list of as many labels")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise OSError(f"{name} has a label that is no integer from 0 to 9")
    data = torch.frombuffer(bytearray(images.content), dtype=torch.uint8).view(count, 3, 32, 32)
    return data, torch.tensor(labels)
