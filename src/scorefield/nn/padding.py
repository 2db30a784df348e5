"""Images of any size for networks that halve it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pad(x: Float[Tensor, "batch channels _ _"], factor: int) -> Float[Tensor, "batch channels _ _"]:
    """Zeros around x, which convolutions see there anyway, up to multiples of a factor."""
    height, width = (-size % factor for size in x.shape[2:])
    if height == width == 0:
        return x
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def crop(
    x: Float[Tensor, "batch channels _ _"], size: torch.Size
) -> Float[Tensor, "batch channels _ _"]:
    """The middle of x, where `pad` put an image of this height and width."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[2:], size, strict=True))
    return x[:, :, top : top + size[0], left : left + size[1]]
