"""CIFAR-10 (Krizhevsky 2009) from its binary or Python archive, or from the folder in it.

A batch is a file of one byte of label and 3,072 bytes of pixels for each image, or a pickle, of
which nothing is executed, see `PickleMachine`. Archives are read in place, never unpacked.
"""

import re
import tarfile
from collections.abc import Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..convert.pickles import PickleMachine, describe
from .download import Remote, data_folder, ensure_files, open_file, read_exactly
from .sources import Arrays, Dataset

CIFAR_ARCHIVE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
BATCH_NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR_PLACES = (
    *("data_batch_1.bin", "cifar-10-batches-bin", CIFAR_ARCHIVE.name),
    *("data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
)
"""Names by which a batch, a folder of batches or an archive is recognised, the best first."""
MEMBER = re.compile(r"(\./)?cifar-10-batches-(bin|py)/(data_batch_[1-5]|test_batch)(\.bin)?")
"""Names of batches in an archive."""
CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
"""Names of the labels 0 to 9."""

IMAGE_BYTES = 3 * 32 * 32
MAX_BATCH_BYTES = 2**25
"""The published batches have 31 million."""
MAX_ARCHIVE_BYTES = 2**28
"""Limit of an unpacked archive; the published one has 186 million."""
ARRAY_NAMES = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
"""What the pickle of an array asks for."""


def cifar10(*, root: str | Path | None = None, download: bool = False) -> Dataset:
    """Load 50,000 colour photographs of 32 × 32 pixels to train on and 10,000 held out.

    `root` is the binary or the Python archive, the folder in it, or a folder with one of them, by
    default data/cifar10. `download` fetches the binary archive if there is none, 170 MB.
    """
    place = data_folder("cifar10", root)
    names = (name for name in CIFAR_PLACES if (place / name).exists())
    path = place if place.is_file() else place / next(names, CIFAR_ARCHIVE.name)
    if not path.exists():
        ensure_files("CIFAR-10", place, [CIFAR_ARCHIVE], download)
    batches = _read_batches(path.parent if path.stem == "data_batch_1" else path)
    missing = [name for name in BATCH_NAMES if name not in batches]
    if missing:
        raise OSError(f"{path} lacks {', '.join(missing)}: download it again")
    *parts, test = (batches[name] for name in BATCH_NAMES)
    images, labels = map(torch.cat, zip(*parts, strict=True))
    train = Arrays(images, labels)
    return Dataset("cifar10", train, Arrays(*test), CIFAR_CLASSES)


def _read_batches(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the images and labels of the batches in a folder or an archive."""
    batches: dict[str, tuple[Tensor, Tensor]] = {}
    for name, content in _folder_members(path) if path.is_dir() else _tar_members(path):
        batch = Path(name).stem
        if batch in batches:
            raise OSError(f"{path} holds {batch} twice: download it again")
        try:
            images, labels = (_read_binary if name.endswith(".bin") else _read_pickle)(content)
            n = len(images)
            if images.shape != (n, IMAGE_BYTES) or n == 0:
                raise ValueError(f"it has no images, or not of {IMAGE_BYTES} bytes each")
            if len(labels) != n or any(type(k) is not int or not 0 <= k <= 9 for k in labels):
                raise ValueError(f"it has {n} images, but not {n} labels from 0 to 9")
            batches[batch] = torch.tensor(images).view(n, 3, 32, 32), torch.tensor([*labels])
        except Exception as error:  # a foreign pickle may fail anywhere
            reason = f"{str(error) or type(error).__name__:.500}"
            message = f"{path}: {name} is not a batch of CIFAR-10 ({reason}): download it again"
            raise OSError(message) from error
    return batches


def _read_content(stream: BufferedIOBase, size: int, place: str) -> bytes:
    if size > MAX_BATCH_BYTES:
        raise OSError(f"{place} has {size} bytes, and a batch at most {MAX_BATCH_BYTES}")
    return bytes(read_exactly(stream, size))


def _folder_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each batch in a folder, binary ones if there are any."""
    end = ".bin" if (path / f"{BATCH_NAMES[0]}.bin").is_file() else ""
    for file in (path / f"{name}{end}" for name in BATCH_NAMES):
        if file.is_file():
            with open_file(file) as stream:
                yield file.name, _read_content(stream, file.stat().st_size, str(file))


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each batch in a tar that is a plain file.

    Headers are read one by one, because `tarfile.open` would take the memory of a header of any
    length, such as a long name.
    """
    with open_file(path) as stream:
        try:
            while any(block := stream.read(tarfile.BLOCKSIZE)):
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                start = stream.tell()
                if info.size < 0 or start + info.size > MAX_ARCHIVE_BYTES:
                    limit = f"{MAX_ARCHIVE_BYTES} bytes"
                    raise OSError(f"{path} unpacks to more than {limit}: download it again")
                if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and MEMBER.fullmatch(info.name):
                    yield info.name, _read_content(stream, info.size, f"{path}: {info.name}")
                stream.seek(start + info.size + -info.size % tarfile.BLOCKSIZE)
        except tarfile.TarError as error:
            raise OSError(f"{path} is damaged: {error}; download it again") from error


def _read_binary(content: bytes) -> tuple[NDArray[np.uint8], Any]:
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + IMAGE_BYTES)
    return records[:, 1:], records[:, 0].tolist()


def _read_pickle(content: bytes) -> tuple[NDArray[np.uint8], Any]:
    batch = PickleMachine(describe(*ARRAY_NAMES)).read(BytesIO(content))
    _, shape, dtype, fortran, raw = batch[b"data"].state  # the first is the version
    if dtype.arguments[0] != b"u1":
        raise ValueError("its array is not one of bytes")
    images = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
    return images, batch[b"labels"]
