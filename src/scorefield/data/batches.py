"""Batches by step: order, mirroring and dequantisation are functions of (seed, step, position).

    x = (v + u)/levels,  v an 8-bit sample,  u ~ U[0, 1)    uniform dequantisation

Position p = step · size + i of the endless stream is sample p mod n of epoch ⌊p/n⌋, whose order is
a permutation of its own. So a run can start at any step, on any number of processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..distributed import split_rows
from ._draws import FLIP, permutation, uniforms, words
from .source import Source, centre
from .stream import Stream, Taken

LOST = 60.0
"""Seconds after which a batch that no worker brings is read without them."""


class Batch(NamedTuple):
    """Clean samples in the model's units, images in [0, 1], and their labels if they have any."""

    x: Float[Tensor, "batch *shape"]
    labels: Int[Tensor, "batch"] | None


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a source, addressed by step.

    Args:
        source: the samples.
        size: of the global batch; each of `world` processes gets a share of it, equal if it can be.
        seed: of order, mirroring and dequantisation.
        flip: mirror every other image, left to right.
        dequantise: draw a point of each 8-bit cell, (v + u)/256; else its middle, (v + ½)/256.
        device: where batches go; the bits are the same on any.
        workers: threads that `stream` reads ahead with, for sources that decode files (Pillow
            lets other threads run while it does). Each has two batches under way at most.
        rank: of this process.
        world: how many processes there are.
    """

    source: Source
    size: int
    seed: int = 0
    flip: bool = False
    dequantise: bool = True
    device: torch.device | str = "cpu"
    workers: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank={self.rank}, world={self.world}: a rank is below the world")
        if self.size < self.world:
            raise ValueError(
                f"size={self.size} beside world={self.world}: give a global batch of at least one "
                "sample for each process"
            )
        if not 0 <= self.seed < 2**64 or self.workers < 0:
            raise ValueError(
                f"seed={self.seed}, workers={self.workers}: give numbers ≥ 0, and a seed below 2⁶⁴"
            )
        if self.flip and len(self.source.shape) != 3:
            raise ValueError(
                f"flip mirrors images, but samples have shape {tuple(self.source.shape)}: leave "
                "it out"
            )

    def __call__(self, step: int) -> Batch:
        """The batch of a step, from 0 on."""
        if isinstance(self.source, Stream):
            raise ValueError("what is streamed has no batch by step: take stream(start)")
        return self._finish(step, self._take(_checked(step)))

    def stream(self, start: int = 0) -> Iterator[Batch]:
        """The batches from a step on, for ever, read ahead if there are workers.

        Closing the generator stops the workers.
        """
        _checked(start)
        if isinstance(self.source, Stream):
            return self._drawn(start, self.source)
        if self.workers:
            return self._ahead(start, self._take, self.workers)
        return (self(step) for step in count(start))

    def _drawn(self, start: int, source: Stream) -> Iterator[Batch]:
        """As they come; no more than one thread can wait for them."""
        taken = source.batches(start * self.size, self.size, self._rows)
        if self.workers:
            return self._ahead(start, lambda step: next(taken), 1)
        return (self._finish(step, each) for step, each in zip(count(start), taken, strict=False))

    def _ahead(self, start: int, take: Callable[[int], Taken], workers: int) -> Iterator[Batch]:
        pool, waiting = _pool(workers), deque[Future[Taken]]()
        again = not isinstance(self.source, Stream)
        try:
            for step in count(start):
                while len(waiting) < 2 * workers:
                    waiting.append(pool.submit(take, step + len(waiting)))
                if again and _lost(waiting[0]):
                    # others begin after this batch, which is the same whoever reads it
                    pool.shutdown(wait=False, cancel_futures=True)
                    pool = _pool(workers)
                    waiting.clear()
                    yield self(step)
                else:
                    yield self._finish(step, waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)

    @property
    def _rows(self) -> range:
        """The positions in the global batch that are this process's."""
        return split_rows(self.size, self.rank, self.world)

    def _take(self, step: int) -> Taken:
        n, rows = len(self.source), self._rows
        epoch, offset = np.divmod(step * self.size + np.arange(rows.start, rows.stop), n)
        index = np.concatenate(
            [
                permutation(self.seed, e, n)[offset[epoch == e]]
                for e in range(int(epoch[0]), int(epoch[-1]) + 1)
            ]
        )
        return self.source.take(torch.from_numpy(index))

    def _finish(self, step: int, taken: Taken) -> Batch:
        x, labels = taken[0].to(self.device), taken[1]
        rows = self._rows
        if self.flip:
            coins = words(self.seed, FLIP, step, self.size)[rows.start : rows.stop] >> 63
            heads = torch.from_numpy(coins.astype(bool)).to(x.device)
            x = torch.where(heads[:, None, None, None], x.flip(3), x)
        if x.dtype == torch.uint8 and self.dequantise:
            bits = uniforms(self.seed, step, rows, self.source.shape.numel())
            k = torch.from_numpy(bits).to(x.device).reshape(x.shape)
            # v + u is a multiple of 2⁻¹⁶ below 256, which float32 holds exactly
            x = (x.float() + (k.float() + 2**15) / 2**16) / self.source.levels
        else:
            x = centre(x, self.source.levels)
        return Batch(x, None if labels is None else labels.to(self.device))


def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="batches")


def _lost(future: Future[Taken]) -> bool:
    """Whether the worker has died instead of reading; then it is not heard of, or was ended."""
    try:
        error = future.exception(LOST)
    except TimeoutError:
        return True
    return error is not None and not isinstance(error, Exception)


def _checked(step: int) -> int:
    if step < 0:
        raise ValueError(f"step={step}: the first one is 0")
    return step
