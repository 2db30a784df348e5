"""Random words addressed by (seed, use, step, position): the counter-based generator Philox.

NumPy guarantees the words of its bit generators, but not the permutations and uniform numbers that
it derives from them, so these are computed here.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDER = 0
FLIP = 1
DEQUANTISE = 2
"""Uses of random words; words of different uses are independent."""


def random_words(
    seed: int, use: int, step: int, count: int, *, block: int = 0
) -> NDArray[np.uint64]:
    """Return `count` words of 64 bits; a block holds four of them."""
    bits: Any = np.random.Philox(key=[seed, use], counter=[block, 0, step, 0])
    return np.asarray(bits.random_raw(count))


@lru_cache(maxsize=4)  # an order is used for many steps
def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """Return the order of n samples in an epoch, a read-only array."""
    order = np.argsort(random_words(seed, ORDER, epoch, n), kind="stable")
    order.setflags(write=False)
    return order


def uniform_bits(seed: int, step: int, rows: range, size: int) -> NDArray[np.int16]:
    """Return 16 random bits for each of `size` numbers of each row, a function of the row's index.

    As signed integers k; (k + 2¹⁵)/2¹⁶ is uniform on [0, 1).
    """
    blocks = -(-size // 16)
    words = random_words(seed, DEQUANTISE, step, 4 * blocks * len(rows), block=rows.start * blocks)
    return words.view(np.int16).reshape(len(rows), -1)[:, :size]
