"""Orders, coins and bits, which are functions of (seed, step, row, position) on any device.

As in `noise.seeded`, a row is one of the global batch, so a process computes its own rows only.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .._ops import WORD, random_words

ORDER = WORD
FLIP = WORD - 1
DEQUANTISE = WORD - 2
AUGMENT = WORD - 3
"""Uses of random words; words of different uses are independent. `noise.seeded` counts its calls
from 0 in their place."""


@lru_cache(maxsize=4)  # an order is used for many steps
def epoch_orders(
    seed: int, epochs: range, n: int, device: torch.device
) -> Int[Tensor, "epochs samples"]:
    """Return the order of n samples in each epoch. It is kept, so do not write to it."""
    a, b, c, d = random_words(seed, epochs, -(-n // 2), ORDER, 0, device)
    keys = torch.stack([a >> 1 << 32 | b, c >> 1 << 32 | d], -1)  # of 63 bits
    return keys.flatten(1)[:, :n].argsort(dim=1, stable=True)


def permutation(seed: int, n: int) -> Int[Tensor, "n"]:
    """Return a fixed order of n samples, which splits are cut from.

    By NumPy's generator, whose words never change either.
    """
    bits: Any = np.random.Philox(key=[seed, 0], counter=0)
    return torch.from_numpy(np.argsort(bits.random_raw(n), kind="stable"))


def coins(seed: int, step: int, rows: range, device: torch.device) -> Bool[Tensor, "rows"]:
    """Return a fair coin for each row."""
    return random_words(seed, rows, 1, FLIP, step, device)[0][:, 0] >= 2**31


def uniform_bits(
    seed: int, step: int, rows: range, size: int, device: torch.device
) -> Int[Tensor, "rows size"]:
    """Return k of 16 bits for each of `size` numbers of each row; k/2¹⁶ is uniform on [0, 1)."""
    words = random_words(seed, rows, -(-size // 8), DEQUANTISE, step, device)
    halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    return torch.stack(halves, -1).flatten(1)[:, :size]
