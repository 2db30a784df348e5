"""Figures of samples compared with real ones: distances, precision, coverage, class shares."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..data import Table
from ..data.table import Column
from ..metrics import Moments
from ..noise import seeded
from .features import Features
from .figure import (
    NO_VALUE,
    NORMAL,
    STUDENT_T,
    Figure,
    Interval,
    jackknife_interval,
    mean_interval,
    normal_interval,
    share_interval,
)
from .gather import MAX_FEATURES, READ_BATCH, Gathered, jackknife_parts

PRECISION_K = 3
"""Neighbour whose distance is the radius in precision and recall."""
COVERAGE_K = 5
"""Neighbour whose distance is the radius in density and coverage."""
INCEPTION_SPLITS = 10
"""Parts of the inception score."""

FRECHET = "Fréchet distance"
PRECISION = f"precision (k = {PRECISION_K})"
COVERAGE = f"coverage (k = {COVERAGE_K})"
RAREST = "share of the rarest class"
COMMONEST = "share of the commonest class"
CORRELATION = "largest difference of a correlation"
CELLS = "the table's columns"
"""Features of the figures of columns."""


def quality(
    samples: Gathered,
    reference: Gathered,
    *,
    classifier: Features | None = None,
    table: Table | None = None,
    seed: int = 0,
    intervals: bool = True,
    device: torch.device | str = "cpu",
) -> Iterator[Figure]:
    """Yield the figures that compare samples with real ones, both in the same features.

    `classifier` adds class shares: its probabilities are of the data's classes. `table` adds a
    distance for each of its columns. Without `intervals` there is no jackknife, which floors do not
    need. `device` compares pairs of samples.
    """
    yield _frechet(samples, reference, intervals)
    x, y = samples.features.to(device), reference.features.to(device)
    n, m = len(x), len(y)
    few = f"the first {n} of {samples.n} samples" if n < samples.n else ""
    if min(n, m) > COVERAGE_K:
        interval = normal_interval(*metrics.kernel_distance(x, y))
        yield Figure("kernel distance", *interval, NORMAL, n, few)
        interval, method = _jackknife(
            x, lambda x: metrics.sliced_wasserstein(x, y, noise=seeded(seed)), intervals
        )
        yield Figure("sliced Wasserstein distance", *interval, method, n, few)
        near = metrics.precision_recall(x, y, k=PRECISION_K)
        interval, recall = share_interval(near.precision, n), share_interval(near.recall, m)
        yield Figure(PRECISION, *interval, "Wilson", n, few)
        yield Figure(f"recall (k = {PRECISION_K})", *recall, "Wilson", n, few)
        density = mean_interval(metrics.crowding(x, y, k=COVERAGE_K).double() / COVERAGE_K)
        yield Figure(f"density (k = {COVERAGE_K})", *density, NORMAL, n, few)
        yield replace(coverage_figure(x, y, intervals=intervals), warning=few)
    if samples.probabilities is not None:
        score = _inception_score(samples.probabilities)
        yield replace(score, warning="; ".join(filter(None, [few, score.warning])))
    if classifier is not None and n:
        shares = class_shares(samples, classifier)
        for name, share in ((RAREST, min(shares)), (COMMONEST, max(shares))):
            interval, method = share_interval(share, n), "Wilson, of that class"
            yield Figure(name, *interval, method, n, few, classifier.about)
    if table is not None:
        yield from _compare_columns(samples.x, reference.x, table, intervals)


def frechet_interval(samples: Gathered, reference: Moments, *, intervals: bool = True) -> Interval:
    """Return the Fréchet distance with its jackknife interval."""
    parts = len(samples.parts) if intervals and samples.n >= 2 * len(samples.parts) else 0
    without = [metrics.frechet(samples.without(i), reference) for i in range(parts)]
    return jackknife_interval(metrics.frechet(samples.moments, reference), without)


def _frechet(samples: Gathered, reference: Gathered, intervals: bool) -> Figure:
    size = samples.features.shape[1]
    if not reference.parts or min(samples.n, reference.n) < 2:
        reason = "a covariance needs at least two samples"
        if not reference.parts:
            reason = f"{size} features are too many for a covariance: use at most {MAX_FEATURES}"
        return Figure(FRECHET, *NO_VALUE, "", samples.n, reason)
    interval = frechet_interval(samples, reference.moments, intervals=intervals)
    method = f"jackknife over {len(samples.parts)} parts of the samples"
    warning = warn_of_size(samples.n, reference.n, size)
    return Figure(FRECHET, *interval, method, samples.n, warning)


def warn_of_size(n: int, m: int, size: int) -> str:
    """Return a warning if the covariances of n and m samples are not to be trusted, else ""."""
    least = min(n, m)
    text = f"{least} samples are few for {size} features: "
    if least <= size:
        return f"{text}the covariance is singular, and most of the distance comes from that"
    return f"{text}the distance is too large, compare at equal numbers only" * (least < 10 * size)


def coverage_figure(x: Tensor, y: Tensor, *, intervals: bool = True) -> Figure:
    """Return the share of real samples with a sample nearby.

    One sample may cover many real ones, which are therefore not independent cases: Wilson's
    interval alone would be too short.
    """
    (value, low, high), method = _jackknife(
        x, lambda x: metrics.density_coverage(x, y, k=COVERAGE_K).coverage, intervals
    )
    least = share_interval(value, len(y))
    ends = max(min(low, least.low), 0.0), min(max(high, least.high), 1.0)
    return Figure(COVERAGE, value, *ends, f"{method}, at least Wilson", len(x))


def _jackknife(
    x: Tensor, statistic: Callable[[Tensor], float], intervals: bool
) -> tuple[Interval, str]:
    """Return a statistic with its jackknife interval and the method in words."""
    parts = jackknife_parts(x.shape[1]) if len(x) <= 2000 else 5
    if len(x) < 2 * parts or not intervals:
        return jackknife_interval(statistic(x), ()), "too few for an interval"
    part = torch.arange(len(x), device=x.device) % parts
    without = [statistic(x[part != i]) for i in range(parts)]
    method = f"jackknife over {parts} parts of the samples"
    return jackknife_interval(statistic(x), without), method


def _inception_score(probabilities: Tensor) -> Figure:
    n, classes = probabilities.shape
    if n < INCEPTION_SPLITS:
        reason = f"needs at least {INCEPTION_SPLITS} samples"
        return Figure("inception score", *NO_VALUE, "", n, reason)
    score = metrics.inception_score(probabilities, INCEPTION_SPLITS)
    # the error is the deviation of a split; the mean over splits is more precise
    error = score.error / math.sqrt(INCEPTION_SPLITS - 1)
    interval = normal_interval(score.value, error, STUDENT_T[INCEPTION_SPLITS])
    rows = f"{n} samples in {INCEPTION_SPLITS} splits for {classes} classes"
    warning = f"{rows}: the score is too small" if n < 100 * classes else ""
    method = f"{INCEPTION_SPLITS} splits, with deviation {score.error:.3g}"
    return Figure("inception score", *interval, method, n, warning)


def class_shares(samples: Gathered, classifier: Features) -> tuple[float, ...]:
    """Return the share of each class among the samples that are kept, by a classifier."""
    probabilities = [classifier.extract(part)[1] for part in torch.split(samples.x, READ_BATCH)]
    classes = torch.cat([p.argmax(1) for p in probabilities if p is not None])
    counts = torch.bincount(classes, minlength=classifier.classes)
    return tuple((counts.double() / len(classes)).tolist())


def correlations(x: Tensor) -> Tensor:
    """Return the correlations of a table's components, 0 where one of them is constant."""
    return x.double().T.corrcoef().nan_to_num().view(x.shape[1], x.shape[1])


def column_figure(column: Column) -> str:
    """Return the name of the figure that compares a column."""
    distance = "total variation" if column.kind == "category" else "Kolmogorov–Smirnov"
    return f"{column.label}: {distance} distance"


def _compare_columns(x: Tensor, y: Tensor, table: Table, intervals: bool) -> Iterator[Figure]:
    """Yield the distance of each column's cells, and the largest difference of a correlation.

    Both distances are the largest difference of shares, over all sets of categories or all
    half-lines of numbers; the interval is that of the share of samples in this set.
    """
    n, cells = len(x), [zip(*table.decode(rows), strict=True) for rows in (x, y)]
    for column, *texts in zip(table.columns, *cells, strict=True):
        share, real = _largest_difference(*texts, category=column.kind == "category")
        interval = Interval(*(max(end - real, 0.0) for end in share_interval(share, n)))
        yield Figure(column_figure(column), *interval, "Wilson, of that set", n, features=CELLS)
    if table.size > 1:
        real_correlations = correlations(y)
        interval, method = _jackknife(
            x, lambda x: (correlations(x) - real_correlations).abs().max().item(), intervals
        )
        yield Figure(CORRELATION, *interval, method, n, features=CELLS)


def _largest_difference(
    x: Sequence[str], y: Sequence[str], *, category: bool
) -> tuple[float, float]:
    """Return the shares of x and y in the set of cells where x exceeds y by most."""
    values = np.array([*x, *y], dtype=None if category else np.float64)
    distinct, place = np.unique(values, return_inverse=True)
    counts = [np.bincount(part, minlength=len(distinct)) for part in np.split(place, [len(x)])]
    p, q = (count / count.sum() for count in counts)
    if category:
        return float(p[p > q].sum()), float(q[p > q].sum())
    below, real = p.cumsum(), q.cumsum()
    i = np.abs(below - real).argmax()
    pair = (below[i], real[i]) if below[i] > real[i] else (1 - below[i], 1 - real[i])
    return float(pair[0]), float(pair[1])
