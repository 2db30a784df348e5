"""Augmentation that does not leak: random transformations of images, as a condition.

    x ← x(M⁻¹p),   p ← T(t)·A(φ, b)·R(θ)·2^a·p   about the image's centre, after mirroring
    c = [left-right, upside down, a, cos θ − 1, sin θ, b cos φ, b sin φ, t]

T shifts, A stretches by 2^b along the axis at φ and by 2^−b across it, and R turns. A network that
gets c learns the distribution of each transformation apart, and c = 0 is that of the data alone
(Karras et al. 2022, §5 and app. F.2, whose c this is). Where c = 0, no bit changes.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .._ops import RowCondition, box_muller, random_words
from ._random import AUGMENT

AUGMENTATION = "augment"
"""Name of the condition."""
AUGMENTATION_SIZE = 9
"""Numbers of the condition."""
OCTAVES = 0.2
"""Standard deviation of a and b."""
SHIFT = 0.125
"""Standard deviation of t, in heights and widths of the image."""


def random_moves(
    probability: float, seed: int, step: int, rows: range, device: torch.device
) -> Float[Tensor, "rows 8"]:
    """Return the transformation of each row: left-right, upside down, a, θ, φ, b and t.

    A fair coin mirrors left to right; each other transformation has the probability.
    """
    words = random_words(seed, rows, 4, AUGMENT, step, device)
    blocks = torch.stack(words, 1)  # (rows, word, block)
    chosen = (blocks[:, :, 0] < round(probability * 2**32)).float()
    heads = blocks[:, :, 1] >= 2**31
    upside_down = heads[:, 1] & (blocks[:, 2, 1] < round(probability * 2**32))
    angles = (blocks[:, :2, 2] >> 8).float() * (2 * math.pi / 2**24) - math.pi
    z = box_muller([word[:, 3] for word in words], torch.float32)
    moves = [
        chosen[:, 0] * OCTAVES * z[:, 0],
        chosen[:, 1] * angles[:, 0],
        chosen[:, 2] * angles[:, 1],
        chosen[:, 2] * OCTAVES * z[:, 1],
        chosen[:, 3] * SHIFT * z[:, 2],
        chosen[:, 3] * SHIFT * z[:, 3],
    ]
    return torch.stack([heads[:, 0].float(), upside_down.float(), *moves], 1)


def condition_vector(moves: Float[Tensor, "rows 8"]) -> Float[Tensor, "rows 9"]:
    """Return c, which is 0 for a row that is not transformed."""
    mirror, flip, a, theta, phi, b, right, down = moves.unbind(1)
    turn, stretch = (theta.cos() - 1, theta.sin()), (b * phi.cos(), b * phi.sin())
    return torch.stack([mirror, flip, a, *turn, *stretch, right, down], 1)


def transform(
    x: Float[Tensor, "rows channels height width"], moves: Float[Tensor, "rows 8"]
) -> Float[Tensor, "rows channels height width"]:
    """Return transformed images; θ turns counter-clockwise, and pixels beyond the edge reflect."""
    mirror, flip = (moves[:, i, None, None, None] > 0 for i in (0, 1))
    x = torch.where(mirror, x.flip(3), x)
    x = torch.where(flip, x.flip(2), x)
    height, width = x.shape[2:]
    a, theta, phi, b, right, down = moves[:, 2:, None, None].unbind(1)
    columns, lines = (torch.arange(size, device=x.device) for size in (width, height))
    u = columns - (width - 1) / 2 - right * width
    v = lines[:, None] - (height - 1) / 2 - down * height
    u, v = _rotate(u, v, -phi)
    u, v = _rotate(u * 2**-b, v * 2**b, phi + theta)
    grid = torch.stack([u * 2**-a * (2 / width), v * 2**-a * (2 / height)], -1).to(x.dtype)
    moved = F.grid_sample(x, grid, "bicubic", "reflection", align_corners=False)
    still = (moves[:, 2:] == 0).all(1)
    return torch.where(still[:, None, None, None], x, moved)


def augment_rows(
    x: Float[Tensor, "rows channels height width"],
    labels: RowCondition,
    moves: Float[Tensor, "rows 8"],
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return transformed images and their conditions by name; images among these move along."""
    values = labels if isinstance(labels, Mapping) else {"label": labels}
    conditions = {
        name: transform(value, moves) if value.ndim == 4 else value
        for name, value in values.items()
        if value is not None
    }
    return transform(x, moves), conditions | {AUGMENTATION: condition_vector(moves)}


def _rotate(u: Tensor, v: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos(), angle.sin()
    return cos * u - sin * v, sin * u + cos * v
