"""What every metric takes: samples as n × d, in double precision one block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

HELD = 2**24
"""Numbers of a block, 128 MB in double precision, where no chunk is asked for."""


def matrix(name: str, x: Tensor, *, least: int) -> Tensor:
    """Samples as n × d, images flattened; an error if they cannot be measured."""
    if x.ndim < 2 or not x[:1].numel():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}: give n × d features or a batch of images; "
            "numbers are n × 1, as x[:, None]"
        )
    if not x.is_floating_point():
        raise ValueError(f"{name} is of {x.dtype}: give floats, as x.float()")
    if len(x) < least:
        raise ValueError(f"{name} has {len(x)} of the {least} samples that this takes at least")
    if not all(bound.isfinite() for bound in torch.aminmax(x.detach())):
        raise ValueError(f"{name} holds NaN or infinite values: find the samples that diverged")
    x = x.detach().flatten(1)
    return x.cpu() if x.device.type == "mps" else x  # which has no double precision


def matrices(*, least: int, **samples: Tensor) -> tuple[Tensor, ...]:
    """`matrix` of each, by its name; an error if they do not live in one space."""
    checked = {name: matrix(name, x, least=least) for name, x in samples.items()}
    (first, x), *others = checked.items()
    for name, y in others:
        if y.shape[1] != x.shape[1]:
            raise ValueError(
                f"{first} has {x.shape[1]} dimensions and {name} {y.shape[1]}: "
                "both must be features of one network, or images of one size"
            )
        if y.device != x.device:
            raise ValueError(f"{first} is on {x.device} and {name} on {y.device}: move one")
    return tuple(checked.values())


def rows(x: Tensor, chunk: int | None) -> int:
    """How many rows are taken at a time."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk}: take 1 row at a time at least, or as many as fit by None")
    return chunk or min(4096, max(1, HELD // x.shape[1]))


def blocks(x: Tensor, chunk: int | None) -> Iterator[Tensor]:
    """The rows of x in order, in double precision."""
    for block in torch.split(x, rows(x, chunk)):
        yield block.double()
