"""MNIST (LeCun et al. 1998) in its own format, IDX, gzipped or not.

0 0 8 for bytes, number of axes · their lengths in 32 bits, big-endian · the bytes
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from .download import Remote, data_folder, ensure_files, open_file, read_exactly
from .sources import Arrays, Dataset

SHA256 = {
    "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
SIZES = (9_912_422, 28_881, 1_648_877, 4_542)
MNIST_FILES = [
    Remote(f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}-ubyte.gz", size, digest)
    for (name, digest), size in zip(SHA256.items(), SIZES, strict=True)
]
MAX_IDX_SAMPLES = 2**18
"""Limit of the samples in one file; MNIST has 60,000."""


def mnist(*, root: str | Path | None = None, download: bool = False) -> Dataset:
    """Load 60,000 grey handwritten digits of 28 × 28 pixels to train on and 10,000 held out.

    `root` is the folder of the four files, gzipped or not, by default data/mnist. `download`
    fetches those that are missing, 12 MB.
    """
    place = data_folder("mnist", root)
    place = place.parent if place.is_file() else place
    if root is not None and not download and (place / "MNIST/raw").is_dir():
        place = place / "MNIST/raw"  # torchvision's
    missing = [remote for remote in MNIST_FILES if _local(place, remote) is None]
    ensure_files("MNIST", place, missing, download)
    paths = [_local(place, remote) or place / remote.name for remote in MNIST_FILES]
    train, test = _read_side(*paths[:2]), _read_side(*paths[2:])
    return Dataset("mnist", train, test, classes=tuple("0123456789"))


def _local(place: Path, remote: Remote) -> Path | None:
    names = (remote.name.removesuffix(".gz"), remote.name)
    return next((place / name for name in names if (place / name).is_file()), None)


def _read_side(images: Path, labels: Path) -> Arrays:
    x, y = read_idx(images, (28, 28)), read_idx(labels, ())
    if len(x) != len(y):
        raise ValueError(f"{images} has {len(x)} images, {labels} {len(y)} labels: get both again")
    if y.max() > 9:
        raise ValueError(f"{labels} holds the label {int(y.max())}, above 9: download it again")
    return Arrays(x[:, None], y.long())


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Return the samples of one shape in an IDX file."""
    axes = 1 + len(shape)
    with open_file(path) as stream:
        header = bytes(read_exactly(stream, 4 + 4 * axes))
        n, *lengths = (int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
        if header[:4] != bytes([0, 0, 8, axes]) or tuple(lengths) != shape:
            content = "images of 28 × 28 bytes" if shape else "labels"
            raise OSError(f"{path} is not an IDX file of {content}: download it again")
        if not 1 <= n <= MAX_IDX_SAMPLES:
            raise OSError(f"{path} claims {n} samples; from 1 to {MAX_IDX_SAMPLES} are read")
        samples = read_exactly(stream, n * math.prod(shape))
        if stream.read(1):
            raise OSError(f"{path} continues after its {n} samples: download it again")
    return torch.frombuffer(samples, dtype=torch.uint8).view(n, *shape)
