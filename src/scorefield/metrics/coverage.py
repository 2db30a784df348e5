"""Precision, recall, density, coverage and nearest neighbours of samples.

Balls around the points of one set, with the distance to each point's k-th nearest neighbour in that
set as radius, stand for its support: B(z) = {v : ‖v − z‖ ≤ r_k(z)}, closed, so duplicates count.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._ops import check_count
from .arguments import blocks, mean_row, row_blocks, sample_matrices

DISTANCE_ROUNDING = 1e-12
"""Slack of a squared distance, relative to the norms it is computed from."""


class PrecisionRecall(NamedTuple):
    """Shares of samples among real ones, and of real ones among samples."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density of samples near real ones, and the share of real ones with a sample near."""

    density: float
    coverage: float


class Neighbours(NamedTuple):
    """The k nearest references of each sample, the nearest first."""

    distances: Float[Tensor, "n k"]
    indices: Int[Tensor, "n k"]


def precision_recall(
    samples: Float[Tensor, "n *shape"], real: Float[Tensor, "m *shape"], *, k: int = 3
) -> PrecisionRecall:
    """Precision Σᵢ 1[xᵢ ∈ ∪ⱼ B(yⱼ)]/n of samples x, and recall Σⱼ 1[yⱼ ∈ ∪ᵢ B(xᵢ)]/m of data y.

    Kynkäänniemi et al. 2019, eqs. 1 and 2, there at n = m = 50,000. Few points have wide balls,
    which are more forgiving: compare values at equal k, n and m only. Two sets from one
    distribution do not score 1. A single outlier, which has the widest ball, can raise either.
    """
    samples, real = _more_than(k, samples, real)
    precision, recall = (
        (_count_in_balls(points, centres, k)[0] > 0).double().mean().item()
        for points, centres in ((samples, real), (real, samples))
    )
    return PrecisionRecall(precision, recall)


def density_coverage(
    samples: Float[Tensor, "n *shape"], real: Float[Tensor, "m *shape"], *, k: int = 5
) -> DensityCoverage:
    """Density Σᵢⱼ 1[xᵢ ∈ B(yⱼ)]/kn of samples x, and coverage Σⱼ 1[some xᵢ ∈ B(yⱼ)]/m of data y.

    Naeem et al. 2020, §3. Both use the balls of the data alone, so an outlying sample does no harm.
    Samples of the data's distribution have density 1 on average, which may be exceeded, and
    coverage 1 − Π_{l=1..k} (m − l)/(n + m − l), about 1 − 2⁻ᵏ at n = m. Too few samples lower the
    coverage by this formula and leave the density as it is.
    """
    samples, real = _more_than(k, samples, real)
    around_real, inside = _count_in_balls(samples, real, k)
    density, coverage = around_real.double().mean() / k, inside.bool().double().mean()
    return DensityCoverage(density.item(), coverage.item())


def crowding(
    samples: Float[Tensor, "n *shape"], real: Float[Tensor, "m *shape"], *, k: int = 5
) -> Int[Tensor, "n"]:
    """Return Σⱼ 1[x ∈ B(yⱼ)] of each sample x, whose mean over k is the density."""
    samples, real = _more_than(k, samples, real)
    return _count_in_balls(samples, real, k)[0]


def nearest(
    x: Float[Tensor, "n *shape"],
    reference: Float[Tensor, "m *shape"],
    k: int = 1,
    *,
    flips: bool = False,
) -> Neighbours:
    """Return the k nearest references of each x by ‖x − y‖₂, the nearest first.

    A point in both sets is its own neighbour, at a distance of exactly 0. The order among
    references at one distance is arbitrary. With `flips`, for images (height and width last), the
    nearer of x and its mirror image counts.
    """
    if flips and x.ndim < 3:
        raise ValueError(f"x has shape {tuple(x.shape)}: flips=True is for images, width last")
    mirrored = x.flip(-1) if flips else x
    x, reference = sample_matrices(least=1, x=x, reference=reference)
    if not 1 <= k <= len(reference):
        raise ValueError(f"k={k} of {len(reference)} references: give 1 to that many")
    views = [x, mirrored.detach().flatten(1).to(x.device)] if flips else [x]
    centre = mean_row(reference)  # about it norms are small, so ‖a‖² + ‖b‖² − 2aᵀb cancels little
    parts = [
        _nearest_of_block(torch.stack(same), reference, centre, k)
        for same in zip(*(blocks(view) for view in views), strict=True)
    ]
    return Neighbours(*(torch.cat(part) for part in zip(*parts, strict=True)))


def neighbour_ratio(
    samples: Float[Tensor, "n *shape"],
    train: Float[Tensor, "m *shape"],
    heldout: Float[Tensor, "l *shape"],
    *,
    flips: bool = False,
) -> float:
    """Return the median ‖x − NN(x)‖ of samples over that of held-out data, NN in training data.

    The comparison of Meehan, Chaudhuri & Dasgupta 2020, by medians. At 1 the model is as far from
    its training data as new data are; far below 1 it copies, far above 1 it is elsewhere. Fewer
    samples or held-out data make the ratio less certain, not smaller or larger.
    """
    sample_matrices(least=1, samples=samples, train=train, heldout=heldout)  # to name these
    new, usual = (
        nearest(x, train, flips=flips).distances.median().item() for x in (samples, heldout)
    )
    if usual == 0:
        raise ValueError("most of heldout is in train: hold out data that the training has not")
    return new / usual


def _more_than(k: int, samples: Tensor, real: Tensor) -> tuple[Tensor, ...]:
    check_count(k=k)
    return sample_matrices(least=k + 1, samples=samples, real=real)


def _norms(a: Tensor, b: Tensor) -> Tensor:
    return a.square().sum(1)[:, None] + b.square().sum(1)


def _nearest_of_block(
    views: Tensor, reference: Tensor, centre: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Return the nearest of a block of points, each in one or two views."""
    square, start = views.new_empty(views.shape[1], 0), 0
    index = square.long()
    for block in blocks(reference):
        b = block - centre
        tile = torch.stack([_norms(a, b) - 2 * a @ b.T for a in views - centre]).amin(0)
        rows = torch.arange(start, start := start + len(b), device=b.device).expand_as(tile)
        index = torch.cat([index, rows], 1)
        square, order = torch.cat([square, tile], 1).topk(min(k, index.shape[1]), largest=False)
        index = index.gather(1, order)
    # the distances of these few exactly, so that a copy is at 0
    columns = [(views - reference[i].double()).norm(dim=-1).amin(0) for i in index.T]
    distances, order = torch.stack(columns, 1).sort(stable=True)
    return distances, index.gather(1, order)


def _count_in_balls(points: Tensor, centres: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Count the balls around each point, and the points in each ball.

    r_k is the distance to the k-th nearest other centre; the nearest of all is the centre itself.
    """
    radii = nearest(centres, centres, k + 1).distances[:, -1]
    middle, inside = mean_row(centres), torch.zeros_like(radii, dtype=torch.int64)
    parts = list(zip(*(row_blocks(z, centres) for z in (centres, radii, inside)), strict=True))
    around = []
    for a in blocks(points):
        a, count = a - middle, inside.new_zeros(len(a))
        for part, radius, number in parts:
            b = part.double() - middle
            within = (1 - DISTANCE_ROUNDING) * _norms(a, b) - 2 * a @ b.T <= radius.square()
            count += within.sum(1)
            number += within.sum(0)  # a view of `inside`
        around.append(count)
    return torch.cat(around), inside
