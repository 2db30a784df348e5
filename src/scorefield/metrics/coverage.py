"""Whether samples lie where data do, all over it, and not on the training data themselves.

Balls around the points of one set, as wide as to each point's k-th nearest neighbour in that set,
stand for where its law lives: B(z) = {v : ‖v − z‖ ≤ r_k(z)}, closed, so that duplicates count.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .arguments import blocks, matrices, rows

ROUNDING = 1e-12
"""Slack of a squared distance, relative to the norms it is computed from."""


class PrecisionRecall(NamedTuple):
    """Shares of samples among real ones, and of real ones among samples."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How much samples crowd where real ones do, and the share of real ones with a sample near."""

    density: float
    coverage: float


class Neighbours(NamedTuple):
    """Of each sample the k nearest references, the nearest first."""

    distances: Float[Tensor, "n k"]
    indices: Int[Tensor, "n k"]


class Memorisation(NamedTuple):
    """How samples lie to the training data, beside how held-out data do."""

    ratio: float
    """Median distance of a sample to training data over that of held-out data; 1 for the law."""
    copies: float
    """The share of samples that are copies."""
    heldout_copies: float
    """The share of held-out data that are: what a data set's own duplicates explain."""
    worst: Int[Tensor, "worst"]
    """Which samples are nearest to training data, the nearest first,"""
    sources: Int[Tensor, "worst"]
    """to which training data,"""
    distances: Float[Tensor, "worst"]
    """and how near."""


def precision_recall(
    samples: Float[Tensor, "n *shape"],
    real: Float[Tensor, "m *shape"],
    *,
    k: int = 3,
    chunk: int | None = None,
) -> PrecisionRecall:
    """Precision Σᵢ 1[xᵢ ∈ ∪ⱼ B(yⱼ)]/n of samples x, and recall Σⱼ 1[yⱼ ∈ ∪ᵢ B(xᵢ)]/m of data y.

    Kynkäänniemi et al. 2019, eqs. 1 and 2, there at n = m = 50,000. Too few points have wide balls,
    which forgive more: values compare at equal k, n and m only, and two sets from one law do not
    score 1. A single outlier, which has the widest ball of all, is enough to raise either.

    Args:
        samples: of the model, more than k.
        real: data.
        k: which neighbour gives the radius.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    samples, real = _more_than(k, samples, real)
    around_real, _ = _balls(samples, real, _radii(real, k, chunk), chunk)
    around_samples, _ = _balls(real, samples, _radii(samples, k, chunk), chunk)
    return PrecisionRecall(_share(around_real > 0), _share(around_samples > 0))


def density_coverage(
    samples: Float[Tensor, "n *shape"],
    real: Float[Tensor, "m *shape"],
    *,
    k: int = 5,
    chunk: int | None = None,
) -> DensityCoverage:
    """Density Σᵢⱼ 1[xᵢ ∈ B(yⱼ)]/kn of samples x, and coverage Σⱼ 1[some xᵢ ∈ B(yⱼ)]/m of data y.

    Naeem et al. 2020, §3. Both use the balls of the data alone, so that an outlying sample does no
    harm. Samples of the data's own law have density 1 on average, which may be exceeded, and
    coverage 1 − Π_{l=1..k} (m − l)/(n + m − l), about 1 − 2⁻ᵏ at n = m; too few samples lower the
    coverage as this says, the density they leave as it is.

    Args:
        samples: of the model.
        real: data, more than k.
        k: which neighbour gives the radius.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    samples, real = _more_than(k, samples, real)
    around_real, held = _balls(samples, real, _radii(real, k, chunk), chunk)
    return DensityCoverage(around_real.double().mean().item() / k, _share(held > 0))


def crowding(
    samples: Float[Tensor, "n *shape"],
    real: Float[Tensor, "m *shape"],
    *,
    k: int = 5,
    chunk: int | None = None,
) -> Int[Tensor, "n"]:
    """In how many balls B(yⱼ) each sample is, whose mean over k is the density.

    Args:
        samples: of the model.
        real: data, more than k.
        k: which neighbour gives the radius.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    samples, real = _more_than(k, samples, real)
    return _balls(samples, real, _radii(real, k, chunk), chunk)[0]


def nearest(
    x: Float[Tensor, "n *shape"],
    reference: Float[Tensor, "m *shape"],
    k: int = 1,
    *,
    flips: bool = False,
    chunk: int | None = None,
) -> Neighbours:
    """The k nearest references of each x by ‖x − y‖₂, the nearest first.

    A point that is in both is its own neighbour, at a distance of exactly 0; among references at
    one distance any may come first. The distances grow shorter with more references.

    Args:
        x: points.
        reference: where neighbours are looked for, k at least.
        k: how many.
        flips: of images, height and width last, take the nearer of x and its mirror image.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    if flips and x.ndim < 3:
        raise ValueError(f"x has shape {tuple(x.shape)}: flips=True is for images, width last")
    mirrored = x.flip(-1).detach().flatten(1) if flips else None
    x, reference = matrices(least=1, x=x, reference=reference)
    if not 1 <= k <= len(reference):
        raise ValueError(f"k={k} of {len(reference)} references: give from 1 to as many as those")
    views = [x] if mirrored is None else [x, mirrored.to(x.device)]
    centre = _mean(reference, chunk)
    found = [
        _nearest(torch.stack(same), reference, centre, k, chunk)
        for same in zip(*(blocks(view, chunk) for view in views), strict=True)
    ]
    return Neighbours(*(torch.cat(part) for part in zip(*found, strict=True)))


def neighbour_ratio(
    samples: Float[Tensor, "n *shape"],
    train: Float[Tensor, "m *shape"],
    heldout: Float[Tensor, "l *shape"],
    *,
    flips: bool = False,
    tolerance: float = 0.0,
    worst: int = 10,
    chunk: int | None = None,
) -> Memorisation:
    """Memorisation: median ‖x − NN(x)‖ of samples over that of held-out data, NN in training data.

    The comparison of Meehan, Chaudhuri & Dasgupta 2020, by medians. 1 is a model as far from its
    training data as new data are; far below 1 it copies, far above it is elsewhere. Distances
    depend on how many training data there are, which both sides share: too few samples or held-out
    data make the ratio less certain, not smaller or larger.

    Args:
        samples: of the model.
        train: what it was trained on.
        heldout: data of the same law that it was not trained on.
        flips: of images, also look for mirrored copies.
        tolerance: the distance up to which a sample is a copy; 0 for exact ones.
        worst: how many of the nearest samples are named.
        chunk: rows taken at a time; as many as 128 MB hold if not given.
    """
    if not tolerance >= 0 or worst < 0:
        raise ValueError(f"tolerance={tolerance}, worst={worst}: neither is negative")
    matrices(least=1, samples=samples, train=train, heldout=heldout)  # named as they are here
    found = nearest(samples, train, flips=flips, chunk=chunk)
    usual = nearest(heldout, train, flips=flips, chunk=chunk).distances
    unit = usual.median().item()
    if unit == 0:
        raise ValueError("heldout is for the most part in train: hold data out that are in it once")
    distances, sources = found.distances[:, 0], found.indices[:, 0]
    order = distances.argsort(stable=True)[:worst]
    return Memorisation(
        distances.median().item() / unit,
        _share(distances <= tolerance),
        _share(usual <= tolerance),
        order,
        sources[order],
        distances[order],
    )


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


def _more_than(k: int, samples: Tensor, real: Tensor) -> tuple[Tensor, ...]:
    if k < 1:
        raise ValueError(f"k={k}: give the 1st neighbour or a later one")
    return matrices(least=k + 1, samples=samples, real=real)


def _radii(x: Tensor, k: int, chunk: int | None) -> Tensor:
    """r_k: the distance to the k-th nearest other; the nearest of all is the point itself."""
    return nearest(x, x, k + 1, chunk=chunk).distances[:, -1]


def _mean(x: Tensor, chunk: int | None) -> Tensor:
    """About which norms are small, and so the cancellation in ‖a‖² + ‖b‖² − 2aᵀb."""
    return torch.stack([block.sum(0) for block in blocks(x, chunk)]).sum(0) / len(x)


def _norms(a: Tensor, b: Tensor) -> Tensor:
    return a.square().sum(1)[:, None] + b.square().sum(1)


def _nearest(
    views: Tensor, reference: Tensor, centre: Tensor, k: int, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """The nearest of a block of points, each seen in one or two ways."""
    square = index = None
    start = 0
    for block in blocks(reference, chunk):
        b = block - centre
        tiles = [_norms(a, b) - 2 * a @ b.T for a in views - centre]
        tile = torch.stack(tiles).amin(0)
        here = torch.arange(start, start + len(b), device=b.device).expand_as(tile)
        start += len(b)
        if square is not None and index is not None:
            tile, here = torch.cat([square, tile], 1), torch.cat([index, here], 1)
        square, order = tile.topk(min(k, tile.shape[1]), largest=False)
        index = here.gather(1, order)
    assert index is not None
    # the few that are left, exactly, so that a copy is at 0
    columns = [(views - reference[i].double()).norm(dim=-1).amin(0) for i in index.T]
    distances, order = torch.stack(columns, 1).sort(stable=True)
    return distances, index.gather(1, order)


def _balls(
    points: Tensor, centres: Tensor, radii: Tensor, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """In how many balls each point is, and how many points are in each ball."""
    middle = _mean(centres, chunk)
    held = torch.zeros(len(centres), dtype=torch.int64, device=centres.device)
    size, inside = rows(centres, chunk), []
    for a in blocks(points, chunk):
        a, count = a - middle, held.new_zeros(len(a))
        for b, r, number in zip(
            blocks(centres, chunk), torch.split(radii, size), torch.split(held, size), strict=True
        ):
            b = b - middle
            within = (1 - ROUNDING) * _norms(a, b) - 2 * a @ b.T <= r.square()
            count += within.sum(1)
            number += within.sum(0)  # a view
        inside.append(count)
    return torch.cat(inside), held
