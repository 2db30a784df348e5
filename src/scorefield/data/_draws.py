"""Randomness that is addressed, not consumed: Philox words by (seed, use, step, position).

NumPy promises the words of its bit generators for ever, but not what it makes of them: orders and
uniforms are made here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDER, FLIP, DEQUANTISE = range(3)
"""What the words are for; each use has its own."""


def words(seed: int, use: int, step: int, count: int, *, block: int = 0) -> NDArray[np.uint64]:
    """`count` words of 64 bits, from a block of four on."""
    bits: Any = np.random.Philox(key=[seed, use], counter=[block, 0, step, 0])
    found: NDArray[np.uint64] = bits.random_raw(count)
    return found


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of n samples in an epoch; the last few are kept, for an order lasts many steps."""
    order = np.argsort(words(seed, ORDER, epoch, n), kind="stable")
    order.setflags(write=False)
    return order


def uniforms(seed: int, step: int, rows: range, size: int) -> NDArray[np.int16]:
    """16 random bits for each of `size` numbers of each row, a row's by its position alone.

    As signed integers k; (k + 2¹⁵)/2¹⁶ is uniform on [0, 1).
    """
    blocks = -(-size // 16)
    found = words(seed, DEQUANTISE, step, 4 * blocks * len(rows), block=rows.start * blocks)
    return found.view(np.int16).reshape(len(rows), -1)[:, :size]
