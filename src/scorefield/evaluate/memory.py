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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data import Dataset, Part, Source, all_samples
from ..metrics import Neighbours, nearest
from ..runs.heldout import MIN_HELDOUT
from .figure import Figure, Interval, median_interval, ratio_interval, share_interval
from .fit import is_eight_bit
from .gather import MAX_KEPT, MAX_KEPT_NUMBERS

MAX_PRODUCTS = 10**12
"""Most products in the distances between held-out and training data: a minute of a core."""
TRAIN_BLOCK = 2**24
"""Numbers of the training data that are read together."""
NEAREST = "distance to training data, held-out = 1"


@dataclass(frozen=True, eq=False)
class Memory:
    """Distances of samples to the training data, compared with held-out data."""

    ratio: Figure  # median distance of the samples, relative to that of held-out data
    near: Figure  # share of near copies; its `real` is that of held-out data
    exact: Figure  # share of exact copies; its `real` is that of held-out data
    usual: Interval  # share of near copies among held-out data
    trained_on: int  # number of training samples
    worst: Int[Tensor, "worst"]  # the ten samples nearest to the training data, nearest first
    sources: Float[Tensor, "worst *shape"]  # training samples that these are nearest to
    distances: Float[Tensor, "worst"]  # of these, relative to the median of held-out data

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The three figures."""
        return self.ratio, self.near, self.exact

    @property
    def copies_training(self) -> bool:
        """True if the model has memorised its training data, or a part of them."""
        return self.ratio.high < 0.5 or self.near.low > self.usual.high

    @property
    def verdict(self) -> str:
        """The finding as a sentence with its numbers."""
        finding = "Memorised" if self.ratio.high < 0.5 else "Memorised in part"
        ratio, near = self.ratio, self.near
        return (
            f"{finding if self.copies_training else 'No sign of memorisation'}: the typical sample "
            f"is {ratio.value:.2f} × as far from the {self.trained_on} training samples as "
            f"held-out data are (95 % interval {ratio.low:.2f} to {ratio.high:.2f}), and "
            f"{100 * near.value:.1f} % of {ratio.samples} samples are near copies "
            f"({100 * near.low:.1f} to {100 * near.high:.1f} %; of held-out data "
            f"{100 * near.real:.1f} %), {100 * self.exact.value:.1f} % exact ones."
        )


def memorisation(
    sets: Sequence[Float[Tensor, "_ *shape"]],
    data: Dataset,
    *,
    flips: bool = False,
    device: torch.device | str = "cpu",
) -> list[Memory]:
    """Compare sets of samples with the training data; `flips` adds its mirror images.

    `device` computes the distances.
    """
    if data.test is None or len(data.test) < MIN_HELDOUT:
        raise ValueError(
            f"{data.name} has fewer than {MIN_HELDOUT} held-out samples, so that the usual "
            "distance of new data to the training data is unknown: hold out more, as by "
            "`scorefield train --held-out 0.2`"
        )
    size, train = data.test.shape.numel(), data.train
    few = min(MAX_KEPT, MAX_KEPT_NUMBERS // size, MAX_PRODUCTS // (size * len(train)))
    heldout = all_samples(data.test, max(MIN_HELDOUT, few)).cpu()
    *_, (_, neighbours) = nearest_in(heldout, train, flips=flips, device=device)
    usual = neighbours.distances[:, 0]
    unit, bound = usual.median().item(), 0.5 * usual.quantile(0.05).item()
    if unit == 0:
        raise ValueError(f"most of the held-out data of {data.name} are in its training data too")
    mirrored = " and their mirror images" * flips
    compared = f"{len(train)} training samples{mirrored}, compared with {len(heldout)} held out"
    features = "pixels" if data.kind == "images" else "coordinates"

    def share(copies: Tensor) -> Interval:
        return share_interval(copies.double().mean().item(), len(copies))

    near_heldout = share(usual <= bound)
    exact_heldout = share(_exact_copies(heldout, neighbours, train, unit, flips))

    def compare(x: Tensor) -> Memory:
        def figure(name: str, interval: Interval, method: str, real: float) -> Figure:
            return Figure(name, *interval, method, len(x), "", features, compared, real=real)

        *_, (_, neighbours) = nearest_in(x, train, flips=flips, device=device)
        d = neighbours.distances[:, 0]
        order = d.argsort(stable=True)[:10]
        ratio = ratio_interval(median_interval(d), median_interval(usual))
        near, exact = share(d <= bound), share(_exact_copies(x, neighbours, train, unit, flips))
        return Memory(
            ratio=figure(NEAREST, ratio, "order statistics", 1.0),
            near=figure("near copies", near, "Wilson", near_heldout.value),
            exact=figure("exact copies", exact, "Wilson", exact_heldout.value),
            usual=near_heldout,
            trained_on=len(train),
            worst=order,
            sources=all_samples(Part(train, neighbours.indices[order, 0])).cpu(),
            distances=d[order] / unit,
        )

    return [compare(x) for x in sets]


def nearest_in(
    x: Float[Tensor, "n *shape"],
    source: Source,
    k: int = 1,
    *,
    flips: bool,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, Neighbours]]:
    """Yield how much of a source has been read, and each sample's k nearest in that."""
    size, samples = max(k, TRAIN_BLOCK // source.shape.numel()), x.to(device)
    best = Neighbours(
        torch.empty(len(x), 0, dtype=torch.float64), torch.empty(len(x), 0, dtype=torch.int64)
    )
    for rows in torch.split(torch.arange(len(source)), size):
        few = min(k, len(rows))
        block = nearest(samples, all_samples(Part(source, rows)).to(device), few, flips=flips)
        gap, index = (part.cpu() for part in block)
        distances = torch.cat([best.distances, gap], 1)
        order = distances.argsort(dim=1, stable=True)[:, :k]
        indices = torch.cat([best.indices, rows[index]], 1)
        best = Neighbours(distances.gather(1, order), indices.gather(1, order))
        yield int(rows[-1]) + 1, best


def _exact_copies(
    x: Tensor, neighbours: Neighbours, train: Source, unit: float, flips: bool
) -> Tensor:
    """Return a mask of the samples that are exact copies of their nearest training sample."""
    d = neighbours.distances[:, 0]
    if not is_eight_bit(train):
        return d <= 0.01 * unit
    # values of one cell are at most half of it away from its centre
    close = (d <= 0.5001 * train.shape.numel() ** 0.5 / train.levels).nonzero()[:, 0]
    equal = torch.zeros(len(x), dtype=torch.bool)
    for rows in torch.split(close, 1000):
        originals = train.take(neighbours.indices[rows, 0])[0].cpu().flatten(1)
        views = [x[rows], x[rows].flip(-1)] if flips else [x[rows]]
        cells = [(v * train.levels).floor().clamp(0, train.levels - 1) for v in views]
        equal[rows] = torch.stack([(c.flatten(1) == originals).all(1) for c in cells]).any(0)
    return equal
