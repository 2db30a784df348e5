"""A figure and all that it depends on, and where it might have been instead.

shares       Wilson's interval
means        ± 1.96 standard errors
the rest     ± t standard errors by the jackknife: the set without one of its parts at a time
             (Tukey 1958), √((k − 1)/k·Σ(θᵢ − θ̄)²), t Student's of k − 1 degrees of freedom
medians      between the order statistics n/2 ± 0.98·√n
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..diagnose import wilson

STUDENT = {5: 2.776, 10: 2.262, 20: 2.093}
"""The 97.5 % quantile of Student's t, of one degree of freedom less than parts."""


class Interval(NamedTuple):
    """A figure, and where 95 % of other sets of the same size would have it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Draw:
    """How samples were made.

    Attributes:
        sampler: Its name.
        evaluations: Of the score, for each sample.
        seed: Of the noise.
        weights: Of the network, averaged or raw, and of which step.
        options: Of the sampler.
        levels: σ from and to, and in how many steps.
        classes: How those of the samples were chosen; empty for a model without.
    """

    sampler: str
    evaluations: int
    seed: int
    weights: str
    options: dict[str, Any]
    levels: tuple[float, float, int]
    classes: str = ""


@dataclass(frozen=True)
class Figure:
    """One number with what it is of.

    Two figures can be compared only where `name`, `features`, `reference` and `samples` agree.

    Attributes:
        name: What is measured, and in which unit.
        value: The number; None if it cannot be had, for the reason in `warning`.
        low: From here
        high: to here it would be in 95 % of all cases,
        method: by what.
        features: Of what it is measured, and what made them; empty if of the model itself.
        samples: How many were drawn or looked at.
        reference: Data set, split and number that they are held against.
        draw: How the samples were made; None for figures of the model itself.
        weights: Of the network.
        seed: Of what is random in the measurement.
        real: The same figure of as many real samples of the other split.
        warning: Why it is to be taken with care.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    method: str
    features: str
    samples: int
    reference: str
    weights: str
    seed: int
    draw: Draw | None = None
    real: float | None = None
    warning: str = ""


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def shown(figure: Figure) -> tuple[str, str]:
    """The value of a figure and its interval as text."""
    if figure.value is None or figure.low is None or figure.high is None:
        return "–", ""
    return number(figure.value), f"{number(figure.low)} – {number(figure.high)}"


def share(value: float, n: int) -> Interval:
    """A share of n."""
    low, high = wilson(round(value * n), n)
    return Interval(value, max(low, 0.0), min(high, 1.0))  # of rounding


def mean(values: Float[Tensor, "n"]) -> Interval:
    """A mean of independent values."""
    n = len(values)
    error = values.double().std().item() / math.sqrt(n) if n > 1 else math.inf
    return around(values.double().mean().item(), error)


def around(value: float, error: float, reach: float = 1.96) -> Interval:
    """A value and its standard error."""
    return Interval(value, value - reach * error, value + reach * error)


def spread(values: Sequence[float]) -> Interval:
    """The mean of several sets, and where 95 % of such sets lie."""
    return around(float(np.mean(values)), float(np.std(values, ddof=1)))


def jackknife(left: Sequence[float]) -> float:
    """The standard error of a figure, of its values where one part at a time is left out."""
    return math.sqrt((len(left) - 1) * float(np.var(left)))


def over(a: Interval, b: Interval) -> Interval:
    """A ratio of two independent figures above 0; the parts of its error in squares.

    a/b ± hypot(δa, δb·a/b)/b
    """
    ratio = a.value / b.value
    low = math.hypot(a.value - a.low, (b.high - b.value) * ratio) / b.value
    high = math.hypot(a.high - a.value, (b.value - b.low) * ratio) / b.value
    return Interval(ratio, max(ratio - low, 0.0), ratio + high)


def median(values: Float[Tensor, "n"]) -> Interval:
    """The lower median."""
    ordered, n = values.sort().values, len(values)
    rank, reach = n / 2, 0.98 * math.sqrt(n)
    low, high = max(round(rank - reach), 0), min(round(rank + reach), n - 1)
    return Interval(*(ordered[i].item() for i in ((n - 1) // 2, low, high)))
