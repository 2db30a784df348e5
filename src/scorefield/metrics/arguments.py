"""Arguments of every metric: samples as n × d, in double precision one block of rows at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .._ops import widest

BLOCK_ELEMENTS = 2**24
"""Numbers in a block, 128 MB in double precision."""

BLOCK_ROWS = 4096
"""Most rows in a block, because pairs of blocks make square matrices."""


def sample_matrix(name: str, x: Tensor, *, least: int) -> Tensor:
    """Return samples as n × d, images flattened, or raise if they cannot be measured."""
    if x.ndim < 2 or not x[:1].numel():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}: give n × d features or a batch of images; "
            "numbers are n × 1, as x[:, None]"
        )
    if not x.is_floating_point():
        raise ValueError(f"{name} is of {x.dtype}: give floats, as x.float()")
    if len(x) < least:
        raise ValueError(f"{name} has {len(x)} samples: give at least {least}")
    if not all(bound.isfinite() for bound in torch.aminmax(x.detach())):
        raise ValueError(f"{name} has NaN or infinite values: find the samples that diverged")
    x = x.detach().flatten(1)
    return x if widest(x.device) == torch.float64 else x.cpu()


def sample_matrices(*, least: int, **samples: Tensor) -> tuple[Tensor, ...]:
    """Return `sample_matrix` of several samples, or raise if they are not of one space."""
    matrices = {name: sample_matrix(name, x, least=least) for name, x in samples.items()}
    (first, x), *others = matrices.items()
    for name, y in others:
        if y.shape[1] != x.shape[1]:
            raise ValueError(
                f"{first} has {x.shape[1]} dimensions and {name} {y.shape[1]}: "
                "both must be features of one network, or images of one size"
            )
        if y.device != x.device:
            raise ValueError(f"{first} is on {x.device} and {name} on {y.device}: move one")
    return tuple(matrices.values())


def row_blocks(x: Tensor, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split x by rows as `like`, or itself, is split into blocks."""
    width = (x if like is None else like).shape[1]
    return torch.split(x, min(BLOCK_ROWS, max(1, BLOCK_ELEMENTS // width)))


def blocks(x: Tensor) -> Iterator[Tensor]:
    """Yield the rows of x in order, in double precision."""
    return (block.double() for block in row_blocks(x))


def mean_row(x: Tensor) -> Tensor:
    """Return the mean of the rows, in double precision."""
    return torch.stack([block.sum(0) for block in blocks(x)]).sum(0) / len(x)
