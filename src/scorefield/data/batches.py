"""Batches by step: order, mirroring and dequantisation are functions of (seed, step, position).

    x = (v + u)/levels,  v an 8-bit sample,  u ~ U[0, 1)    uniform dequantisation

Position p = step · size + i of the endless stream is sample p mod n of epoch ⌊p/n⌋, and each epoch
has its own permutation. So a run can start at any step, with any number of processes.
"""

import math
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from .._ops import Noise, RowCondition, Samples, widest
from ..distributed import split_rows
from ..noise import uniform_like
from ..values import map_condition
from ._random import coins, epoch_orders, uniform_bits
from .augment import augment_rows, random_moves
from .sources import Rows, Source, Stream, cell_centres

WORKER_TIMEOUT_SECONDS = 60.0
"""Time after which a batch that no worker has read is read in the main thread."""


class LabelledBatch(NamedTuple):
    """Clean samples in the model's units, images in [0, 1], and their labels or conditions."""

    x: Samples
    labels: RowCondition


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a source, addressed by step."""

    source: Source
    size: int  # of the global batch, which the processes share as equally as possible
    seed: int = 0  # of order, mirroring and dequantisation
    flip: bool = False  # mirror a random half of the images, left to right
    augment: float = 0.0  # probability of each transformation, whose parameters are a condition
    dequantise: bool = True  # sample a point of each 8-bit cell, (v + u)/256, not its middle
    # of the batches; the bits are the same on any, except those of transformed images
    device: torch.device | str = "cpu"
    # threads that `stream` reads with, for sources that decode files; each reads at most two
    # batches ahead
    workers: int = 0
    rank: int = 0  # index of this process
    world: int = 1  # number of processes

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank={self.rank}, world={self.world}: give a rank below the world")
        if self.size < self.world:
            raise ValueError(f"size={self.size} with world={self.world}: give a larger batch")
        if not 0 <= self.seed < 2**64 or self.workers < 0:
            raise ValueError(f"seed={self.seed}, workers={self.workers}: give 0 or more, below 2⁶⁴")
        shape = tuple(self.source.shape)
        if not 0 <= self.augment <= 1:
            raise ValueError(f"augment={self.augment}: give a probability, from 0 to 1")
        if self.flip and len(shape) not in (3, 4):
            raise ValueError(f"flip mirrors images, but samples have shape {shape}: leave it out")
        if self.augment and len(shape) != 3:
            raise ValueError(f"augment is for images, but samples have shape {shape}: leave it out")

    def __call__(self, step: int) -> LabelledBatch:
        """Return the batch of a step; the first is 0."""
        if isinstance(self.source, Stream):
            raise ValueError("a stream has no batch by step: use stream(start)")
        return next(replace(self, workers=0).stream(step))

    def stream(self, start: int = 0) -> Generator[LabelledBatch, None, None]:
        """Yield the batches from a step on without end; closing it stops the workers."""
        if start < 0:
            raise ValueError(f"step={start}: the first step is 0")
        take, workers = self._take, self.workers
        if isinstance(self.source, Stream):  # read in order, so by one thread at most
            parts = self.source.batches(start * self.size, self.size, self._rows)
            take, workers = lambda step: next(parts), min(workers, 1)
        if workers:
            return self._read_ahead(start, take, workers)
        return (self._finish(step, take(step)) for step in count(start))

    def _read_ahead(
        self, start: int, take: Callable[[int], Rows], workers: int
    ) -> Generator[LabelledBatch, None, None]:
        pool, waiting = ThreadPoolExecutor(workers, "batches"), deque[Future[Rows]]()
        repeatable = not isinstance(self.source, Stream)
        try:
            for step in count(start):
                while len(waiting) < 2 * workers:
                    waiting.append(pool.submit(take, step + len(waiting)))
                if repeatable and _is_lost(waiting[0]):
                    # New workers continue after this batch, which is the same whoever reads it.
                    pool.shutdown(wait=False, cancel_futures=True)
                    pool = ThreadPoolExecutor(workers, "batches")
                    waiting.clear()
                    yield self(step)
                else:
                    yield self._finish(step, waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)

    @property
    def _rows(self) -> range:
        """This process's positions in the global batch."""
        return split_rows(self.size, self.rank, self.world)

    def _take(self, step: int) -> Rows:
        n, rows = len(self.source), self._rows
        first, end = (step * self.size + row for row in (rows.start, rows.stop))
        epochs = -(-self.size // n)  # computed at once; a batch lies in one or two such groups
        parts = list[Tensor]()
        for begin in range(first // n // epochs * epochs, -(-end // n), epochs):
            group = range(begin, begin + epochs)
            order = epoch_orders(self.seed, group, n, self.source.device).flatten()
            parts.append(order[max(first - begin * n, 0) : end - begin * n])
        return self.source.take(torch.cat(parts))

    def _finish(self, step: int, samples: Rows) -> LabelledBatch:
        x, labels = samples[0].to(self.device), samples[1]
        rows = self._rows
        if self.flip:
            heads = coins(self.seed, step, rows, x.device)
            mirror = partial(_mirror, heads)
            x, labels = mirror(x), map_condition(mirror, labels)
        if x.dtype == torch.uint8 and self.dequantise:
            bits = uniform_bits(self.seed, step, rows, self.source.shape.numel(), x.device)
            # v + u is a multiple of 2⁻¹⁶ below 256, exact in float32.
            x = (x.float() + bits.reshape(x.shape).float() / 2**16) / self.source.levels
        else:
            x = cell_centres(x, self.source.levels)
        labels = map_condition(lambda value: value.to(self.device), labels)
        if self.augment:
            moves = random_moves(self.augment, self.seed, step, rows, x.device)
            x, labels = augment_rows(x, labels, moves)
        return LabelledBatch(x, labels)


def _mirror(heads: Bool[Tensor, "batch"], values: Tensor) -> Tensor:
    """Mirror the images of some rows; labels and vectors stay as they are."""
    if values.ndim < 4:
        return values
    rows = heads.to(values.device).view(-1, *[1] * (values.ndim - 1))
    return torch.where(rows, values.flip(-1), values)


def _is_lost(future: Future[Rows]) -> bool:
    """True if the worker does not answer, or its thread was ended."""
    try:
        error = future.exception(WORKER_TIMEOUT_SECONDS)
    except TimeoutError:
        return True
    return error is not None and not isinstance(error, Exception)


def dequantise(
    v: UInt8[Tensor, "batch *shape"],
    sigma: float = math.inf,
    *,
    levels: int = 256,
    noise: Noise = torch.randn_like,
) -> tuple[Samples, Float[Tensor, "batch"]]:
    """Return a point x of the cell of each 8-bit sample v, and log q(x | v).

    q is N((v + ½)/levels, σ²) truncated to the cell, and uniform for σ = ∞. The mean over x of
    log p(x) − log q(x | v) is at most the log of the probability ∫p of the cell. For p = q_σ of a
    model that was trained on the middles of cells, this q is nearest to it; a model of `Batches`,
    which dequantise uniformly, needs the uniform one (Zheng et al. 2023, §4.1).
    """
    if not sigma > 0 or levels < 1:
        raise ValueError(f"sigma={sigma}, levels={levels}: give a noise level above 0, and levels")
    # in units of √2·σ, half the cell is t, and in those of t the offset is in [−1, 1]
    t, share = 0.5 / levels / sigma / 2**0.5, 2 * uniform_like(v.to(widest(v.device)), noise=noise)
    if t < 1e-6:  # q is uniform up to rounding
        offset, log_q = share - 1, torch.full_like(share, math.log(levels))
    else:
        offset = (torch.erfinv((share - 1) * math.erf(t)) / t).clamp(-1, 1)
        log_q = math.log(2 * t * levels / math.pi**0.5 / math.erf(t)) - (t * offset).square()
    x = (v + 0.5 + offset / 2) / levels
    return x.float(), log_q.flatten(1).sum(1)
