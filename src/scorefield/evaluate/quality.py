"""How near samples are to a data set: distances of laws, and who lies among whom."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..metrics import (
    Moments,
    crowding,
    density_coverage,
    frechet_gaussian,
    inception_score,
    kernel_distance,
    precision_recall,
    sliced_wasserstein,
)
from ..noise import seeded
from .figure import STUDENT, Interval, around, jackknife, mean, share
from .gather import WIDEST, Gathered, Reference, parts_of

NEAR, AROUND = 3, 5
"""The neighbour that gives the radius, of precision and recall, and of density and coverage."""
SPLITS = 10
"""Of the inception score."""


@dataclass(frozen=True)
class Measured:
    """A figure of samples beside a reference, and what it was of.

    Attributes:
        name: As everywhere.
        interval: None if it cannot be had.
        method: Of the interval.
        samples: How many were looked at.
        warning: Why it is to be taken with care.
    """

    name: str
    interval: Interval | None
    method: str
    samples: int
    warning: str = ""


def quality(found: Gathered, reference: Reference, seed: int) -> Iterator[Measured]:
    """All figures that compare samples with a reference.

    Args:
        found: the samples.
        reference: what they are held against.
        seed: of the directions of the sliced distance.
    """
    x, y = found.features, reference.features
    yield _frechet(found, reference)
    few = f"the first {len(x)} of {found.n} samples" if len(x) < found.n else ""
    if min(len(x), len(y)) > AROUND:
        yield from (replaced(each, few) for each in _of_rows(x, y, seed))
    if found.probabilities is not None:
        yield replaced(_inception_score(found.probabilities), few)


def replaced(measured: Measured, warning: str) -> Measured:
    """With a warning before its own."""
    both = "; ".join(each for each in (warning, measured.warning) if each)
    return Measured(measured.name, measured.interval, measured.method, measured.samples, both)


def distance(found: Gathered, reference: Moments) -> Interval:
    """The Fréchet distance with its interval."""
    parts = len(found.parts)

    def to(moments: Moments) -> float:
        return frechet_gaussian(moments.mean, moments.cov, reference.mean, reference.cov)

    if found.n < 2 * parts:
        return around(to(found.moments), math.inf)
    error = jackknife([to(found.without(i)) for i in range(parts)])
    return around(to(found.moments), error, STUDENT[parts])


def _frechet(found: Gathered, reference: Reference) -> Measured:
    name = "Fréchet distance"
    size = found.features.shape[1]
    if reference.moments is None:
        reason = f"{size} features are too many for a covariance, {WIDEST} at most: take others"
        return Measured(name, None, "", found.n, reason)
    if min(found.n, reference.n) < 2:
        return Measured(name, None, "", found.n, "a covariance takes two samples at least")
    method = f"jackknife over {len(found.parts)} parts of the samples"
    measured = distance(found, reference.moments)
    return Measured(name, measured, method, found.n, too_few(found.n, reference.n, size))


def too_few(n: int, m: int, size: int) -> str:
    """A warning where covariances of so many samples are not to be trusted."""
    least = min(n, m)
    if least <= size:
        return (
            f"{least} samples for {size} features: the covariance is singular, the distance is "
            "mostly that of too few samples"
        )
    if least < 10 * size:
        return (
            f"{least} samples are few for {size} features: the distance is too large, compare at "
            "equal numbers only"
        )
    return ""


def _of_rows(x: Tensor, y: Tensor, seed: int) -> Iterator[Measured]:
    n, m = len(x), len(y)
    kernel = kernel_distance(x, y)
    yield Measured("kernel distance", around(*kernel), "± 1.96 of its standard error", n)

    def sliced(x: Tensor) -> float:
        return sliced_wasserstein(x, y, noise=seeded(seed))

    yield Measured(
        "sliced Wasserstein distance",
        *_jackknifed(x, sliced),
        n,
    )
    near = precision_recall(x, y, k=NEAR)
    yield Measured(f"precision (k = {NEAR})", share(near.precision, n), "Wilson", n)
    yield Measured(f"recall (k = {NEAR})", share(near.recall, m), "Wilson", n)
    density = mean(crowding(x, y, k=AROUND).double() / AROUND)
    yield Measured(f"density (k = {AROUND})", density, "± 1.96 of its standard error", n)
    yield coverage(x, y)


def coverage(x: Tensor, y: Tensor) -> Measured:
    """The share of data with a sample near, as uncertain as the samples make it.

    One sample may be near many data, so Wilson's interval of independent cases is too short.
    """

    def covered(x: Tensor) -> float:
        return density_coverage(x, y, k=AROUND).coverage

    among, method = _jackknifed(x, covered)
    least = share(among.value, len(y))
    low, high = max(min(among.low, least.low), 0.0), min(max(among.high, least.high), 1.0)
    name = f"coverage (k = {AROUND})"
    return Measured(name, Interval(among.value, low, high), f"{method}, at least Wilson", len(x))


def _jackknifed(x: Tensor, statistic: Callable[[Tensor], float]) -> tuple[Interval, str]:
    parts = parts_of(x.shape[1]) if len(x) <= 2000 else 5
    if len(x) < 2 * parts:
        return around(statistic(x), math.inf), "too few for an interval"
    part = torch.arange(len(x)) % parts
    error = jackknife([statistic(x[part != i]) for i in range(parts)])
    interval = around(statistic(x), error, STUDENT[parts])
    return interval, f"jackknife over {parts} parts of the samples"


def _inception_score(probabilities: Tensor) -> Measured:
    n, classes = probabilities.shape
    if n < SPLITS:
        return Measured("inception score", None, "", n, f"takes {SPLITS} samples at least")
    score = inception_score(probabilities, SPLITS)
    # among the splits is the deviation of one; their mean is more precise
    interval = around(score.value, score.error / math.sqrt(SPLITS - 1), STUDENT[SPLITS])
    few = "" if n >= 100 * classes else f"{n} samples in {SPLITS} splits for {classes} classes"
    warning = f"{few}: the score is too small" if few else ""
    method = f"of {SPLITS} splits, whose deviation is {score.error:.3g}"
    return Measured("inception score", interval, method, n, warning)
