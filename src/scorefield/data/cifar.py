"""CIFAR-10 (Krizhevsky 2009) from its archive, or from the folder that is in it.

Archives are read in sequence, never unpacked. The binary one holds a byte of label and 3,072 bytes
of pixels for each image; the Python one holds pickles, see `BatchUnpickler`.
"""

from __future__ import annotations

import pickle
import pickletools
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .download import Remote, data_folder, ensure_files, open_file, read_exactly
from .sources import Arrays, Dataset

CIFAR_ARCHIVE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
PYTHON_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
BATCH_NAMES = (*TRAIN_BATCHES, TEST_BATCH)
FILES = (*BATCH_NAMES, *(f"{name}.bin" for name in BATCH_NAMES))

IMAGE_BYTES = 3 * 32 * 32
MAX_BATCH_IMAGES = 10_000
MAX_BATCH_BYTES = 2**25
"""The published batches have 31 million."""
MAX_ARCHIVE_BYTES = 2**28
"""Unpacked; the published archive has 186 million."""
MAX_MEMBERS = 1000
EXTENDED_HEADERS = {
    *tarfile.GNU_TYPES,
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}
"""Types of members of a tar that describe the next one."""
MAX_OPERATIONS = 100_000
"""In one pickle; a batch of CIFAR-10 has about 30,000."""
MAX_MEMO_READS = 8
"""In one pickle; each may double the time that hashing takes."""
OPERATIONS = {
    *("PROTO", "GLOBAL", "REDUCE", "BUILD", "STOP", "MARK", "NONE", "NEWFALSE", "NEWTRUE"),
    *("BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
}
"""Operations of pickles that batches need."""


def cifar10(*, root: str | Path | None = None, download: bool = False) -> Dataset:
    """Load 50,000 colour photographs of 32 × 32 pixels to train on and 10,000 held out.

    Args:
        root: cifar-10-binary.tar.gz or cifar-10-python.tar.gz, the folder in it, or a folder with
            one of them; by default data/cifar10.
        download: fetch the binary archive if none exists, 170 MB.
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
    first = TRAIN_BATCHES[0]
    if place.is_file():
        return place.parent if place.stem == first else place
    if (place / first).exists() or (place / f"{first}.bin").exists():
        return place
    paths = (place / name for name in (*CIFAR_FOLDERS, CIFAR_ARCHIVE.name, PYTHON_ARCHIVE))
    return next((path for path in paths if path.exists()), None)


def _read_batches(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the batches in a folder or an archive."""
    batches: dict[str, tuple[Tensor, Tensor]] = {}
    for name, content in _folder_members(path) if path.is_dir() else _tar_members(path):
        batch, read = name.rpartition("/")[2], _read_pickle
        if batch.endswith(".bin"):
            batch, read = batch.removesuffix(".bin"), _read_binary
        place = f"{path}{'/' if path.is_dir() else ': '}{name}"
        if batch in batches:
            raise OSError(f"{path} holds {batch} twice: download it again")
        batches[batch] = read(content, place)
    return batches


def _read_content(stream: Any, size: int, name: str) -> bytes:
    if size > MAX_BATCH_BYTES:
        raise OSError(f"{name} has {size} bytes, and a batch at most {MAX_BATCH_BYTES}")
    return bytes(read_exactly(stream, size))


def _folder_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each batch in a folder, binary ones if there are any."""
    end = ".bin" if (path / f"{TRAIN_BATCHES[0]}.bin").is_file() else ""
    for file in (path / f"{name}{end}" for name in BATCH_NAMES):
        if file.is_file():
            with open_file(file) as stream:
                yield file.name, _read_content(stream, file.stat().st_size, str(file))


class _PlainHeader(tarfile.TarInfo):
    """A header of a tar; extended headers, which may need much memory, are skipped like files."""

    @classmethod
    def frombuf(cls, *args: Any, **options: Any) -> _PlainHeader:
        """Return the header in a block of 512 bytes."""
        info = super().frombuf(*args, **options)
        if info.type in EXTENDED_HEADERS:
            info.type = b"?"
        if info.size < 0:
            raise tarfile.ReadError("a header claims a negative size")
        return info


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each batch that is a plain file of a tar."""
    names = {f"{top}{name}" for top in ("", *(f"{f}/" for f in CIFAR_FOLDERS)) for name in FILES}
    total = 0
    with open_file(path) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_PlainHeader) as archive:
                for count, info in enumerate(archive):
                    total += info.size
                    if total > MAX_ARCHIVE_BYTES or count >= MAX_MEMBERS:
                        limits = f"{MAX_ARCHIVE_BYTES} bytes or {MAX_MEMBERS} files"
                        raise OSError(f"{path} unpacks to more than {limits}: get it again")
                    name = info.name.removeprefix("./")
                    if info.isreg() and name in names:
                        file = archive.extractfile(info)
                        yield name, _read_content(file, info.size, f"{path}: {name}")
        except (tarfile.TarError, ValueError) as error:
            raise OSError(f"{path} is damaged: {error!s:.500}; download it again") from error


def _read_binary(content: bytes, place: str) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a binary batch after checking all of them."""
    n, rest = divmod(len(content), 1 + IMAGE_BYTES)
    if rest:
        raise OSError(f"{place} has {len(content)} bytes, not {1 + IMAGE_BYTES} for each image")
    records = np.frombuffer(content, np.uint8).reshape(n, 1 + IMAGE_BYTES)
    return _check_batch(records[:, 1:], records[:, 0].tolist(), place)


def _read_pickle(content: bytes, place: str) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a pickled batch after checking all of them."""
    try:
        batch = BatchUnpickler(content).load()
        images, labels = _build_array(batch[b"data"]), batch[b"labels"]
    except Exception as error:  # a foreign pickle may fail anywhere
        reason = f"{str(error) or type(error).__name__:.500}"
        raise OSError(f"{place} is not a batch of CIFAR-10 ({reason}): get it again") from error
    return _check_batch(images, labels, place)


def _check_batch(images: NDArray[np.uint8], labels: Any, place: str) -> tuple[Tensor, Tensor]:
    n = images.size // IMAGE_BYTES
    if images.shape != (n, IMAGE_BYTES) or not 1 <= n <= MAX_BATCH_IMAGES:
        raise OSError(f"{place} has images of another size than {IMAGE_BYTES} bytes, or too many")
    valid = type(labels) is list and all(type(k) is int and 0 <= k <= 9 for k in labels)
    if not valid or len(labels) != n:
        raise OSError(f"{place} has {n} images, but not a list of {n} labels from 0 to 9")
    return torch.from_numpy(images.copy()).view(n, 3, 32, 32), torch.tensor(labels)


# ── Pickles ──────────────────────────────────────────────────────────────────────────────────────


class PickledObject:
    """An object that a pickle asks NumPy to build: only its arguments and its state are kept."""

    def __init__(self, *arguments: object):
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class PickledArray(PickledObject):
    """Stands for `numpy.core.multiarray._reconstruct`."""


class PickledDtype(PickledObject):
    """Stands for `numpy.dtype`."""


class BatchUnpickler(pickle.Unpickler):
    """Unpickler of numbers, strings, lists, dicts and tuples, and of descriptions of arrays.

    It is safe because no code that a pickle chooses is ever called. All operations are checked
    against `OPERATIONS` first: those left reach a global through `find_class` alone, which knows
    three names and returns stand-ins that only record their arguments. The check also compares each
    length with the bytes that are left, and bounds operations and the memo, before memory is taken.
    """

    GLOBALS: dict[tuple[str, str], object] = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): PickledArray,
        ("numpy", "ndarray"): "ndarray",
        ("numpy", "dtype"): PickledDtype,
    }

    def __init__(self, content: bytes):
        super().__init__(BytesIO(content), encoding="bytes")
        reads = 0
        for count, (code, argument, position) in enumerate(pickletools.genops(content)):
            reads += code.name.endswith("BINGET")
            memo = int(argument or 0) if code.name.endswith(("BINPUT", "BINGET")) else 0
            if code.name not in OPERATIONS or reads > MAX_MEMO_READS:
                raise ValueError(f"it has the operation {code.name}, or has it too often")
            if max(count, memo) > MAX_OPERATIONS:
                raise ValueError(f"it has more than {MAX_OPERATIONS} operations")
            if code.name == "STOP" and position != len(content) - 1:
                raise ValueError("it continues after its end")

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a global."""
        if (module, name) not in self.GLOBALS:
            raise pickle.UnpicklingError("it asks for a name that no array needs")
        return self.GLOBALS[module, name]


def _build_array(described: Any) -> NDArray[np.uint8]:
    """Return the array of bytes that a pickle describes."""
    if type(described) is not PickledArray or len(described.state or ()) != 5:
        raise ValueError("it has something else in the place of an array")
    _, shape, dtype, fortran, raw = described.state  # the first is a version
    byte = type(dtype) is PickledDtype and dtype.arguments[:1] == (b"u1",)
    if not byte or type(fortran) is not bool or type(raw) is not bytes or type(shape) is not tuple:
        raise ValueError("its array is not one of bytes")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("its array has no shape")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
