"""MNIST (LeCun et al. 1998) in its own format, IDX, gzipped or not.

0, 0, 8 for bytes, the number of axes; the length of each in 32 bits, big-endian; the numbers.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from .dataset import Dataset
from .published import Remote, exactly, home, opened, provided
from .source import Arrays

SITE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = (
    Remote(
        f"{SITE}train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    Remote(
        f"{SITE}train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    Remote(
        f"{SITE}t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    Remote(
        f"{SITE}t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
MOST = 2**18
"""Images in a file, at most; MNIST has 60,000."""
DEFLATE = 1032
"""How many times its size a gzipped file can hold, at most."""


def mnist(*, root: str | Path | None = None, download: bool = False) -> Dataset:
    """60,000 written digits of 28 × 28 pixels in grey to train on, 10,000 held out, as published.

    Args:
        root: the folder of the four files, gzipped or not; data/mnist if not given.
        download: fetch those that are not there, 12 MB.
    """
    folder = home("mnist", root)
    if folder.is_file():
        folder = folder.parent
    if root is not None and not download and (folder / "MNIST/raw").is_dir():
        folder = folder / "MNIST/raw"  # torchvision's
    missing = [remote for remote in FILES if _there(folder, remote) is None]
    provided("MNIST", folder, missing, download)
    paths = [_there(folder, remote) or folder / remote.name for remote in FILES]
    return Dataset("mnist", _part(*paths[:2]), _part(*paths[2:]), classes=10)


def _there(folder: Path, remote: Remote) -> Path | None:
    plain = remote.name.removesuffix(".gz")
    # the dot is the name that some programs unpack to
    names = (plain, remote.name, plain.replace("-idx", ".idx"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _part(images: Path, labels: Path) -> Arrays:
    x, y = read(images, (28, 28)), read(labels, ())
    if len(x) != len(y):
        raise ValueError(f"{images} has {len(x)} images, but {labels} {len(y)} labels: get both")
    if y.max() > 9:
        raise ValueError(
            f"{labels} holds a label {int(y.max())}, and there are 0 to 9: get it anew"
        )
    return Arrays(x[:, None], y.long())


def read(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The samples of a shape that an IDX file of bytes holds.

    What the header says is held against the size of the file before memory is taken.
    """
    axes = 1 + len(shape)
    size = path.stat().st_size
    with opened(path) as stream:
        header = bytes(exactly(stream, 4 + 4 * axes))
        count, *found = (int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
        if header[:4] != bytes([0, 0, 8, axes]) or tuple(found) != shape:
            what = "images of 28 × 28 bytes" if shape else "labels"
            raise OSError(f"{path} is no IDX file of {what}: get it anew")
        if not 1 <= count <= MOST:
            raise OSError(f"{path} claims {count} samples; from 1 to {MOST} are read")
        length = count * math.prod(shape)
        if length > DEFLATE * size:
            raise OSError(f"{path} claims {count} samples, too many for its {size} bytes")
        content = exactly(stream, length)
        if stream.read(1):
            raise OSError(f"{path} goes on after its {count} samples: get it anew")
    return torch.frombuffer(content, dtype=torch.uint8).view(count, *shape)
