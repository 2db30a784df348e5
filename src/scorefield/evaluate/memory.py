"""Memorisation: distances of samples to the training data.

    d(x) = min over training data y of ‖x − y‖, or to its mirror image where training flipped

is measured for samples and for held-out data, which show what distance is usual. Three figures:

    ratio         median d of samples over median d of held-out data (after Meehan et al. 2020); its
                  interval includes the uncertainty of both
    near copies   share with d ≤ half of the distance that 95 % of held-out data exceed
    exact copies  share equal to their nearest training sample in all 8-bit values; for floats, the
                  share with d ≤ a hundredth of the usual distance

A model has memorised if the whole interval of the ratio is below ½, or if the interval of its share
of near copies is above that of held-out data (for equal shares less than one case in a hundred).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data import Dataset, Part, Source, all_samples
from ..metrics import Neighbours, nearest
from .figure import Figure, Interval, median_interval, ratio_interval, share_interval
from .fit import is_eight_bit
from .gather import MAX_KEPT, MAX_KEPT_NUMBERS

TYPICAL_RATIO = 0.5
"""Ratio below which the typical sample is a copy."""
NEAR_COPY = 0.5
"""Largest distance of a near copy, relative to the one that nearly all held-out data exceed."""
FLOAT_COPY = 0.01
"""Largest distance of an exact copy of floats, relative to the usual distance."""
NEAREST_HELDOUT = 0.05
"""Share of held-out data that do not exceed the distance of "nearly all"."""
MIN_HELDOUT = 20
"""Fewest held-out samples that show what distance is usual."""
MAX_PRODUCTS = 10**12
"""Most products in the distances between held-out and training data: a minute of a core."""
TRAIN_BLOCK = 2**24
"""Numbers of the training data that are read together."""
NEAREST = "distance to training data, held-out = 1"


@dataclass(frozen=True, eq=False)
class Memory:
    """Distances of samples to the training data, compared with held-out data.

    Attributes:
        n: Number of samples.
        trained: Number of training samples.
        heldout: Number of held-out samples.
        flips: True if mirror images were compared too.
        usual: Median distance of held-out data.
        ratio: Median distance of the samples, relative to `usual`.
        near, near_heldout: Shares of near copies among the samples and among held-out data.
        exact, exact_heldout: Shares of exact copies.
        worst: Indices of the samples nearest to the training data, the nearest first.
        sources: Training samples that these are nearest to.
        distances: Distances of these.
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
    def typical(self) -> bool:
        """True if the typical sample is a copy."""
        return self.ratio.high < TYPICAL_RATIO

    @property
    def copies_training(self) -> bool:
        """True if the model has memorised."""
        return self.typical or self.near.low > self.near_heldout.high

    @property
    def verdict(self) -> str:
        """The finding as a sentence with its numbers."""
        ratio, near = self.ratio, self.near
        words = "Memorised" + " in part" * (not self.typical)
        words = words if self.copies_training else "No sign of memorisation"
        return (
            f"{words}: the typical sample is {ratio.value:.2f} × as far from the {self.trained} "
            f"training samples as held-out data are (95 % interval {ratio.low:.2f} to "
            f"{ratio.high:.2f}), and {100 * near.value:.1f} % of {self.n} samples are near copies "
            f"({100 * near.low:.1f} to {100 * near.high:.1f} %; of held-out data "
            f"{100 * self.near_heldout.value:.1f} %), {100 * self.exact.value:.1f} % exact ones."
        )


def memorisation(
    sets: Sequence[Float[Tensor, "_ *shape"]],
    data: Dataset,
    *,
    flips: bool = False,
    worst: int = 10,
) -> list[Memory]:
    """Compare sets of samples, and once the held-out data, with the training data.

    The `worst` samples are those nearest to the training data. `flips` adds its mirror images.
    """
    if data.test is None or len(data.test) < MIN_HELDOUT:
        raise ValueError(
            f"{data.name} has fewer than {MIN_HELDOUT} held-out samples, so that the usual "
            "distance of new data to the training data is unknown"
        )
    numbers = data.test.shape.numel()
    affordable = MAX_PRODUCTS // (numbers * len(data.train))
    few = min(MAX_KEPT, MAX_KEPT_NUMBERS // numbers, affordable)
    heldout = all_samples(data.test, max(MIN_HELDOUT, few)).cpu()
    train, usual = data.train, nearest_in(heldout, data.train, flips=flips)
    u = usual.distances[:, 0]
    unit, bound = u.median().item(), NEAR_COPY * u.quantile(NEAREST_HELDOUT).item()
    if unit == 0:
        raise ValueError(f"most of what {data.name} holds out is in its training data as well")

    def share(copies: Tensor) -> Interval:
        return share_interval(copies.double().mean().item(), len(copies))

    def compare(x: Tensor) -> Memory:
        neighbours = nearest_in(x, train, flips=flips)
        d = neighbours.distances[:, 0]
        order = d.argsort(stable=True)[:worst]
        return Memory(
            n=len(x),
            trained=len(train),
            heldout=len(heldout),
            flips=flips,
            usual=unit,
            ratio=ratio_interval(median_interval(d), median_interval(u)),
            near=share(d <= bound),
            near_heldout=share(u <= bound),
            exact=share(_exact_copies(x, neighbours, train, unit, flips)),
            exact_heldout=share(_exact_copies(heldout, usual, train, unit, flips)),
            worst=order,
            sources=all_samples(Part(train, neighbours.indices[order, 0])).cpu(),
            distances=d[order],
        )

    return [compare(x) for x in sets]


def nearest_in(x: Float[Tensor, "n *shape"], source: Source, *, flips: bool) -> Neighbours:
    """Return each sample's nearest sample of a source, which is read a block at a time."""
    size = max(1, TRAIN_BLOCK // source.shape.numel())
    distances = x.new_full((len(x), 1), torch.inf, dtype=torch.float64)
    indices = torch.zeros_like(distances, dtype=torch.int64)
    for rows in torch.split(torch.arange(len(source)), size):
        block = nearest(x, all_samples(Part(source, rows)).cpu(), flips=flips)
        nearer = block.distances < distances
        distances = block.distances.where(nearer, distances)
        indices = rows[block.indices].where(nearer, indices)
    return Neighbours(distances, indices)


def _exact_copies(
    x: Tensor, neighbours: Neighbours, train: Source, unit: float, flips: bool
) -> Tensor:
    """Return which samples are exact copies of their nearest training sample."""
    d = neighbours.distances[:, 0]
    if not is_eight_bit(train):
        return d <= FLOAT_COPY * unit
    # values of one cell are at most half of it away from its centre
    close = (d <= 0.5001 * train.shape.numel() ** 0.5 / train.levels).nonzero()[:, 0]
    equal = torch.zeros(len(x), dtype=torch.bool)
    for rows in torch.split(close, 1000):
        there = train.take(neighbours.indices[rows, 0])[0].cpu().flatten(1)
        views = [x[rows], x[rows].flip(-1)] if flips else [x[rows]]
        cells = [(v * train.levels).floor().clamp(0, train.levels - 1) for v in views]
        equal[rows] = torch.stack([(c.flatten(1) == there).all(1) for c in cells]).any(0)
    return equal


def memory_figures(memory: Memory | None, kind: str) -> Iterator[Figure]:
    """Yield the figures of memorisation; `real` is the one of the held-out data."""
    if memory is None:
        return
    mirrored = " and their mirror images" if memory.flips else ""
    compared = (
        f"{memory.trained} training samples{mirrored}, compared with {memory.heldout} held out"
    )
    features = "pixels" if kind == "images" else "coordinates"
    for name, interval, real, method in (
        (NEAREST, memory.ratio, 1.0, "order statistics"),
        ("near copies", memory.near, memory.near_heldout.value, "Wilson"),
        ("exact copies", memory.exact, memory.exact_heldout.value, "Wilson"),
    ):
        yield Figure(name, *interval, method, memory.n, "", features, compared, real=real)
