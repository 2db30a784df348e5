"""Has a model learned its training data by heart? By how near its samples are to them.

    d(x) = min over training data y of ‖x − y‖, of images trained with flips also to their mirrors

of samples, and of held-out data, which show what distance is usual. Three figures:

    ratio         median d of samples over that of held-out data (after Meehan et al. 2020), its
                  interval wide enough for what is uncertain in either
    near copies   the share with d ≤ half of the distance that 95 % of held-out data exceed
    exact copies  the share equal to their nearest training sample in all 8-bit values; of floats,
                  the share with d ≤ a hundredth of the usual

A model has memorised if its typical sample is a copy, the whole interval of the ratio being below
½; or if some are, the share of near copies being above that of held-out data, interval above
interval (if the shares are equal, by chance in less than one case of a hundred).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data import Dataset, Part, Source, all_samples
from ..metrics import Neighbours, nearest
from .figure import Interval, median, over, share
from .gather import HELD, KEPT

TYPICAL, NEAR, EQUAL = 0.5, 0.5, 0.01
"""The ratio below which the typical sample is a copy; what part of the distance that nearly all new
data exceed makes a near copy; and what part of the usual one, of floats, an equal one."""
RARE = 0.05
"""The share of held-out data that are nearer than nearly all."""
FEW = 20
"""Held-out samples, of which less would say nothing."""
WORK = 10**12
"""Products in the distances between held-out and training data, at most: a minute of a core."""
BLOCK = 2**24
"""Numbers of the training data that are looked at together."""


@dataclass(frozen=True, eq=False)
class Memory:
    """How samples lie to training data, beside held-out data.

    Attributes:
        n: Samples.
        trained: Training data.
        heldout: Held-out data.
        flips: Whether mirror images were looked for.
        usual: The median distance of held-out data.
        ratio: The samples' median distance over it.
        near: The share of near copies,
        near_heldout: and of held-out data;
        exact: the share of exact ones,
        exact_heldout: and of held-out data.
        worst: The samples nearest to training data, the nearest first,
        sources: what they are near to,
        distances: and how near.
    """

    n: int
    trained: int
    heldout: int
    flips: bool
    usual: float
    ratio: Interval
    near: Interval
    near_heldout: Interval
    exact: Interval
    exact_heldout: Interval
    worst: Int[Tensor, "worst"]
    sources: Float[Tensor, "worst *shape"]
    distances: Float[Tensor, "worst"]

    @property
    def memorised(self) -> bool:
        """By the rule above."""
        return self.typical or self.some

    @property
    def typical(self) -> bool:
        """The typical sample is a copy."""
        return self.ratio.high < TYPICAL

    @property
    def some(self) -> bool:
        """More samples are near copies than held-out data."""
        return self.near.low > self.near_heldout.high

    @property
    def verdict(self) -> str:
        """The finding in words, with its numbers."""
        ratio, near = self.ratio, self.near
        usual = (
            f"the typical sample is {ratio.value:.2f} × as far from the {self.trained} training "
            f"samples as held-out data are (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
        )
        copies = (
            f"{100 * near.value:.1f} % of {self.n} samples are near copies "
            f"({100 * near.low:.1f} to {100 * near.high:.1f} %; of held-out data "
            f"{100 * self.near_heldout.value:.1f} %), {100 * self.exact.value:.1f} % exact ones"
        )
        if not self.memorised:
            return f"No sign of memorisation: {usual}, and {copies}."
        what = "Memorised" if self.typical else "Memorised in part"
        return f"{what}: {usual}, and {copies}."


def memory(
    samples: Float[Tensor, "n *shape"], data: Dataset, *, flips: bool = False, worst: int = 10
) -> Memory:
    """How samples lie to training data.

    Args:
        samples: of a model.
        data: what it was trained on, and what was held out.
        flips: also look for mirrored copies, of images.
        worst: how many of the nearest samples are kept.
    """
    if data.test is None or len(data.test) < FEW:
        raise ValueError(
            f"{data.name} has fewer than {FEW} held-out samples: how far new data are from the "
            "training data, without which no copy can be told, is not known"
        )
    numbers = data.test.shape.numel()
    some = min(KEPT, HELD // numbers, WORK // (numbers * len(data.train)))
    heldout = all_samples(data.test, max(FEW, some))
    found = nearest_in(samples, data.train, flips=flips)
    usual = nearest_in(heldout, data.train, flips=flips)
    d, u = found.distances[:, 0], usual.distances[:, 0]
    unit, bound = u.median().item(), NEAR * u.quantile(RARE).item()
    if unit == 0:
        raise ValueError(f"most of what {data.name} holds out is in its training data as well")
    ratio = over(median(d), median(u))
    order = d.argsort(stable=True)[:worst]
    near, near_heldout = ((each <= bound).double().mean().item() for each in (d, u))
    exact, exact_heldout = (
        _equal(x, each, data.train, unit, flips).double().mean().item()
        for x, each in ((samples, found), (heldout, usual))
    )
    return Memory(
        len(samples),
        len(data.train),
        len(heldout),
        flips,
        unit,
        ratio,
        share(near, len(d)),
        share(near_heldout, len(u)),
        share(exact, len(d)),
        share(exact_heldout, len(u)),
        order,
        all_samples(Part(data.train, found.indices[order, 0])),
        d[order],
    )


def nearest_in(x: Float[Tensor, "n *shape"], source: Source, *, flips: bool) -> Neighbours:
    """Of each x the nearest sample of a source, which is read a block at a time."""
    size = max(1, BLOCK // source.shape.numel())
    best: Neighbours | None = None
    for rows in torch.split(torch.arange(len(source)), size):
        found = nearest(x, all_samples(Part(source, rows)), flips=flips)
        indices = rows[found.indices]
        if best is None:
            best = Neighbours(found.distances, indices)
            continue
        nearer = found.distances < best.distances
        best = Neighbours(
            found.distances.where(nearer, best.distances), indices.where(nearer, best.indices)
        )
    assert best is not None
    return best


def _equal(x: Tensor, found: Neighbours, source: Source, unit: float, flips: bool) -> Tensor:
    """Which are exact copies of their nearest training sample."""
    eight_bit = source.take(torch.zeros(1, dtype=torch.int64))[0].dtype == torch.uint8
    d = found.distances[:, 0]
    if not eight_bit:
        return d <= EQUAL * unit
    # values of one cell are no further than half of it from its middle
    close = (d <= 0.5001 * source.shape.numel() ** 0.5 / source.levels).nonzero()[:, 0]
    equal = torch.zeros(len(x), dtype=torch.bool)
    for rows in torch.split(close, 1000):
        there = source.take(found.indices[rows, 0])[0].cpu().flatten(1)
        views = [x[rows], x[rows].flip(-1)] if flips else [x[rows]]
        cells = [(v * source.levels).floor().clamp(0, source.levels - 1) for v in views]
        equal[rows] = torch.stack([(c.flatten(1) == there).all(1) for c in cells]).any(0)
    return equal
