"""Figures of samples compared with real ones: distances, precision, coverage, class shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .. import metrics
from ..metrics import Moments
from ..noise import seeded
from .features import Features
from .figure import (
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


def quality(
    samples: Gathered,
    reference: Gathered,
    *,
    seed: int = 0,
    intervals: bool = True,
    few: bool = False,
) -> Iterator[Figure]:
    """Yield the figures that compare samples with a reference.

    Args:
        samples: the samples.
        reference: real samples in the same features.
        seed: seed of the sliced distance's directions.
        intervals: False leaves out the jackknife, for floors.
        few: only the Fréchet distance, precision, recall and coverage.
    """
    x, y = samples.features, reference.features
    yield _frechet(samples, reference, intervals)
    if min(len(x), len(y)) > COVERAGE_K:
        yield from (_warn_of_rows(f, samples) for f in _pairwise(x, y, seed, intervals, few))
    if samples.probabilities is not None and not few:
        yield _warn_of_rows(_inception_score(samples.probabilities), samples)


def _warn_of_rows(figure: Figure, samples: Gathered) -> Figure:
    """Add a warning if the figure is only of the samples that were kept."""
    kept = len(samples.features)
    first = f"the first {kept} of {samples.n} samples" if kept < samples.n else ""
    return replace(figure, warning="; ".join(filter(None, [first, figure.warning])))


def frechet_interval(samples: Gathered, reference: Moments) -> Interval:
    """Return the Fréchet distance with its jackknife interval."""
    parts = range(len(samples.parts) if samples.n >= 2 * len(samples.parts) else 0)
    without = [_distance(samples.without(i), reference) for i in parts]
    return jackknife_interval(_distance(samples.moments, reference), without)


def _distance(moments: Moments, reference: Moments) -> float:
    return metrics.frechet_gaussian(moments.mean, moments.cov, reference.mean, reference.cov)


def _frechet(samples: Gathered, reference: Gathered, intervals: bool) -> Figure:
    size = samples.features.shape[1]
    missing = Figure(FRECHET, None, None, None, "", samples.n)
    if not reference.parts:
        reason = f"{size} features are too many for a covariance, {MAX_FEATURES} at most"
        return replace(missing, warning=f"{reason}: take others")
    if min(samples.n, reference.n) < 2:
        return replace(missing, warning="a covariance takes two samples at least")
    if intervals:
        interval = frechet_interval(samples, reference.moments)
    else:
        interval = normal_interval(_distance(samples.moments, reference.moments), math.nan)
    method = f"jackknife over {len(samples.parts)} parts of the samples"
    warning = too_few_samples(samples.n, reference.n, size)
    return Figure(FRECHET, *interval, method, samples.n, warning)


def too_few_samples(n: int, m: int, size: int) -> str:
    """Return a warning if the covariances of n and m samples are not to be trusted, else ""."""
    least = min(n, m)
    text = f"{least} samples are few for {size} features: "
    if least <= size:
        return f"{text}the covariance is singular, the distance mostly that of too few samples"
    return f"{text}the distance is too large, compare at equal numbers only" * (least < 10 * size)


def _pairwise(x: Tensor, y: Tensor, seed: int, intervals: bool, few: bool) -> Iterator[Figure]:
    n, m = len(x), len(y)

    if not few:
        yield Figure("kernel distance", *normal_interval(*metrics.kernel_distance(x, y)), NORMAL, n)
        interval, method = _jackknife(
            x, lambda x: metrics.sliced_wasserstein(x, y, noise=seeded(seed)), intervals
        )
        yield Figure("sliced Wasserstein distance", *interval, method, n)
    near = metrics.precision_recall(x, y, k=PRECISION_K)
    yield Figure(PRECISION, *share_interval(near.precision, n), "Wilson", n)
    yield Figure(f"recall (k = {PRECISION_K})", *share_interval(near.recall, m), "Wilson", n)
    if not few:
        density = mean_interval(metrics.crowding(x, y, k=COVERAGE_K).double() / COVERAGE_K)
        yield Figure(f"density (k = {COVERAGE_K})", *density, NORMAL, n)
    yield coverage_figure(x, y, intervals=intervals)


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
    part = torch.arange(len(x)) % parts
    without = [statistic(x[part != i]) for i in range(parts)]
    method = f"jackknife over {parts} parts of the samples"
    return jackknife_interval(statistic(x), without), method


def _inception_score(probabilities: Tensor) -> Figure:
    n, classes = probabilities.shape
    if n < INCEPTION_SPLITS:
        reason = f"takes {INCEPTION_SPLITS} samples at least"
        return Figure("inception score", None, None, None, "", n, reason)
    score = metrics.inception_score(probabilities, INCEPTION_SPLITS)
    # the error is the deviation of a split; the mean over splits is more precise
    error = score.error / math.sqrt(INCEPTION_SPLITS - 1)
    interval = normal_interval(score.value, error, STUDENT_T[INCEPTION_SPLITS])
    rows = f"{n} samples in {INCEPTION_SPLITS} splits for {classes} classes"
    warning = f"{rows}: the score is too small" if n < 100 * classes else ""
    method = f"{INCEPTION_SPLITS} splits, with deviation {score.error:.3g}"
    return Figure("inception score", *interval, method, n, warning)


# ── Class shares ─────────────────────────────────────────────────────────────────────────────────


def class_shares(samples: Gathered, classifier: Features) -> tuple[float, ...]:
    """Return the share of each class among the samples that are kept, by a classifier."""
    probabilities = [classifier.extract(part)[1] for part in torch.split(samples.x, READ_BATCH)]
    classes = torch.cat([p.argmax(1) for p in probabilities if p is not None])
    counts = torch.bincount(classes, minlength=classifier.classes)
    return tuple((counts.double() / len(classes)).tolist())


def share_figures(shares: Sequence[float], n: int) -> Iterator[Figure]:
    """Yield the shares of the rarest and of the commonest class."""
    for name, share in ((RAREST, min(shares)), (COMMONEST, max(shares))):
        yield Figure(name, *share_interval(share, n), "Wilson, of that class", n)
