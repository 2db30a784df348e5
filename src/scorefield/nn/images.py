"""Batches of images, signals and volumes of any size, for networks that halve the size."""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images: TypeAlias = Float[Tensor, "batch _channels ..."]
"""Images (batch, channels, height, width); signals and volumes have one axis less or more."""
AXES = {
    1: ("signals", "length"),
    2: ("images", "height, width"),
    3: ("volumes", "depth, height, width"),
}
"""Kind of sample and its axes after the channels, by their number."""
Vectors: TypeAlias = Float[Tensor, "batch _size"]
"""A vector for each image, such as the embedded noise level."""


def check_image(x: Tensor, channels: int, dims: int = 2) -> None:
    """Refuse all but images (`dims=2`), signals (1) or volumes (3) with `channels` channels."""
    if x.ndim != 2 + dims or x.shape[1] != channels:
        kind, axes = AXES[dims]
        raise ValueError(
            f"x has shape {tuple(x.shape)}: this network takes {kind} of {channels} channels, "
            f"(batch, channels, {axes})"
        )


def pad(x: Images, factor: int) -> Images:
    """Pad x with zeros on all sides, which convolutions assume anyway, to multiples of `factor`."""
    missing = [-size % factor for size in x.shape[2:]]
    if not any(missing):
        return x
    # torch counts axes from the last
    return F.pad(x, [part for size in reversed(missing) for part in (size // 2, size - size // 2)])


def crop(x: Images, size: torch.Size) -> Images:
    """Cut out the middle of x, where `pad` put an image of this size."""
    for axis, target in enumerate(size, 2):
        x = x.narrow(axis, (x.shape[axis] - target) // 2, target)
    return x


def fold(x: Images, size: int) -> Images:
    """Move the pixels of each patch, `size` along each axis, into the channels."""
    if size == 1:
        return x
    x = x.reshape(*x.shape[:2], *(part for n in x.shape[2:] for part in (n // size, size)))
    patches, inside = range(2, x.ndim, 2), range(3, x.ndim, 2)
    return x.permute(0, 1, *inside, *patches).flatten(1, 1 + len(inside))


def unfold(x: Images, size: int) -> Images:
    """Undo `fold`."""
    if size == 1:
        return x
    dims, sizes = x.ndim - 2, x.shape[2:]
    x = x.reshape(len(x), x.shape[1] // size**dims, *[size] * dims, *sizes)
    order = [axis for patch in range(2 + dims, 2 + 2 * dims) for axis in (patch, patch - dims)]
    return x.permute(0, 1, *order).reshape(*x.shape[:2], *(n * size for n in sizes))
