"""Quality against cost: the Fréchet distance of every sampler at several numbers of evaluations."""

from __future__ import annotations

import time
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from ..metrics import Moments
from ..model import ScoreModel
from ..sample import Plan, make_plan
from ..samplers import SAMPLERS
from .features import Features
from .figure import Interval
from .gather import gather, together
from .quality import distance
from .subject import drawn

BUDGETS = (5, 10, 20, 40, 80)
"""Evaluations of the score, about."""


@dataclass(frozen=True)
class Point:
    """A sampler at a cost.

    Attributes:
        sampler: Its name.
        evaluations: Of the score, for each sample.
        seconds: For all samples.
        samples: How many.
        frechet: Their distance.
    """

    sampler: str
    evaluations: int
    seconds: float
    samples: int
    frechet: Interval


def frontier(
    model: ScoreModel,
    n: int,
    features: Features,
    reference: Moments,
    *,
    seed: int,
    batch: int,
    classes: Int[Tensor, "n"] | None = None,
) -> Iterator[Point]:
    """All samplers, each at the budgets that it can meet."""
    for sampler in SAMPLERS:
        for planned in plans(model, sampler, BUDGETS):
            begun = time.perf_counter()
            # of few levels, churn goes beyond the largest that the model knows
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                # with the time of the features
                parts = drawn(model, n, planned, seed=seed, batch=batch, classes=classes)
                found = together(gather(parts, features, kept=0))
            seconds = time.perf_counter() - begun
            yield Point(sampler, planned.evaluations, seconds, n, distance(found, reference))


def plans(model: ScoreModel, sampler: str, budgets: Sequence[int]) -> Iterator[Plan]:
    """The plans of a sampler whose costs are nearest to the budgets, none of them twice."""

    def cost_of(steps: int) -> int:
        return make_plan(model, sampler, steps).evaluations

    used = set()
    for budget in budgets:
        # the cost grows with the steps
        over = bisect_left(range(1, 2 * budget), budget, key=cost_of) + 1
        near = [make_plan(model, sampler, steps) for steps in (max(over - 1, 1), over)]
        best = min(near, key=lambda each: abs(each.evaluations - budget))
        cost = best.evaluations
        if cost not in used and budget / 1.5 <= cost <= 1.5 * budget:
            used.add(cost)
            yield best
