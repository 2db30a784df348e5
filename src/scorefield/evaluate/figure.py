"""Figures with 95 % intervals.

shares       Wilson's interval
means        ± 1.96 standard errors
medians      between the order statistics n/2 ± 0.98·√n
the rest     ± t standard errors by the jackknife (Tukey 1958), √((k − 1)/k·Σ(θᵢ − θ̄)²), where θᵢ
is the figure without part i of k; t is Student's with k − 1 degrees of freedom
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..diagnose import wilson

NORMAL = "± 1.96 standard errors"
"""Method of an interval."""
STUDENT_T = {0: 1.96, 5: 2.776, 10: 2.262, 20: 2.093}
"""97.5 % quantile of Student's t by number of parts, one more than the degrees of freedom."""


class Interval(NamedTuple):
    """A value, and the interval that covers it in 95 % of other sets of the same size."""

    value: float
    low: float
    high: float


NO_VALUE = Interval(math.nan, math.nan, math.nan)
"""Value of a figure that cannot be computed."""


@dataclass(frozen=True)
class Figure:
    """A number and everything that it depends on.

    Two figures can be compared only if `name`, `features`, `reference` and `samples` agree.
    """

    name: str  # of the quantity, with its unit
    value: float  # NaN if it cannot be computed, for the reason in `warning`
    low: float  # ends of the 95 % interval
    high: float
    method: str  # by which the interval was computed
    samples: int  # number of samples
    warning: str = ""  # reason to take the figure with care
    features: str = ""  # of the samples; empty for figures of the model itself
    reference: str = ""  # data set, split and number of the real samples
    weights: str = ""  # averaged or raw, and of which step
    seed: int = 0  # of the samples and of the measurement
    plan: Mapping[str, Any] | None = None  # plan of the samples; None for figures of the model
    real: float = math.nan  # mean of the same figure over sets of as many real samples


def number(value: float) -> str:
    """Return a number with three digits; NaN is empty."""
    return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def in_text(figure: Interval | Figure) -> tuple[str, str]:
    """Return the value and the interval as text; empty where there is none."""
    ends = f"{number(figure.low)} – {number(figure.high)}"
    return number(figure.value) or "–", ends * math.isfinite(figure.high - figure.low)


def share_interval(value: float, n: int) -> Interval:
    """Return the interval of a share of n."""
    low, high = wilson(round(value * n), n)
    return Interval(value, max(low, 0.0), min(high, 1.0))  # rounding


def mean_interval(values: Float[Tensor, "n"]) -> Interval:
    """Return the interval of the mean of independent values."""
    n = len(values)
    error = values.double().std().item() / math.sqrt(n) if n > 1 else math.inf
    return normal_interval(values.double().mean().item(), error)


def normal_interval(value: float, error: float, reach: float = 1.96) -> Interval:
    """Return the interval of a value with a standard error."""
    return Interval(value, value - reach * error, value + reach * error)


def spread_interval(values: Sequence[float]) -> Interval:
    """Return the mean of several sets and the range of 95 % of them; NaN for a single set."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return normal_interval(float(np.mean(values)), deviation)


def jackknife_interval(value: float, without: Sequence[float]) -> Interval:
    """Return the interval of a figure, given its values without each of the parts; ∞ for none."""
    error = math.sqrt((len(without) - 1) * np.var(without)) if without else math.inf
    return normal_interval(value, error, STUDENT_T[len(without)])


def ratio_interval(a: Interval, b: Interval) -> Interval:
    """Return a/b ± hypot(δa, δb·a/b)/b, for two independent positive figures."""
    ratio = a.value / b.value
    low = math.hypot(a.value - a.low, (b.high - b.value) * ratio) / b.value
    high = math.hypot(a.high - a.value, (b.value - b.low) * ratio) / b.value
    return Interval(ratio, max(ratio - low, 0.0), ratio + high)


def median_interval(values: Float[Tensor, "n"]) -> Interval:
    """Return the interval of the lower median."""
    ordered, n = values.sort().values, len(values)
    rank, reach = n / 2, 0.98 * math.sqrt(n)
    low, high = max(round(rank - reach), 0), min(round(rank + reach), n - 1)
    return Interval(*(ordered[i].item() for i in ((n - 1) // 2, low, high)))
