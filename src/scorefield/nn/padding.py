"""Images and signals of any size for networks that halve it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pad(x: Float[Tensor, "batch channels ..."], factor: int) -> Float[Tensor, "batch channels ..."]:
    """Zeros around x, which convolutions see there anyway, up to multiples of a factor."""
    missing = [-size % factor for size in x.shape[2:]]
    if not any(missing):
        return x
    # torch counts axes from the last
    return F.pad(x, [part for size in reversed(missing) for part in (size // 2, size - size // 2)])


def crop(
    x: Float[Tensor, "batch channels ..."], size: torch.Size
) -> Float[Tensor, "batch channels ..."]:
    """The middle of x, where `pad` put an image of this height and width."""
    starts = [(have - want) // 2 for have, want in zip(x.shape[2:], size, strict=True)]
    for axis, (start, want) in enumerate(zip(starts, size, strict=True), 2):
        x = x.narrow(axis, start, want)
    return x
