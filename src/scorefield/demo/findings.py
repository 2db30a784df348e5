"""All that the demo has found in the end, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..evaluate import Interval
from ..model import ScoreModel
from ..runs.config import Experiment
from .measures import DRAWS, Judge, Measures
from .ways import Drawn, Way


@dataclass(frozen=True, eq=False)
class Result:
    """A way of sampling, what came of it, and how good that is."""

    way: Way
    drawn: Drawn
    measures: Measures


@dataclass(frozen=True, eq=False)
class Findings:
    """All that the demo knows in the end."""

    directory: Path
    experiment: Experiment
    model: ScoreModel
    judge: Judge
    floors: Mapping[int, Measures]
    """Of real digits, by how many they are."""
    results: Sequence[Result]
    trained: float
    """Seconds of training."""


HEADS = (
    "", "NFE", "seconds", "samples", "Fréchet", "precision", "coverage", "classes, %", "nearest"
)  # fmt: skip


def rows(found: Findings) -> list[list[str]]:
    """The table, with real digits over the samples that are as many; intervals as second lines."""
    table = []
    for n, floor in found.floors.items():
        table.append(["real digits", "–", "–", f"{DRAWS} × {n}", *_figures(floor)])
        for r in found.results:
            if r.way.n == n:
                cost = [str(r.way.plan.evaluations), f"{r.drawn.seconds:.1f}", str(n)]
                table.append([r.way.name, *cost, *_figures(r.measures)])
    return table


def _figures(m: Measures) -> list[str]:
    shares = f"{100 * m.rarest:.1f}–{100 * m.commonest:.1f}"
    return [
        _cell(m.frechet, 3),
        _cell(m.precision, 2),
        _cell(m.coverage, 2),
        shares,
        _cell(m.ratio, 2),
    ]


def _cell(interval: Interval, digits: int) -> str:
    value, low, high = (f"{number:.{digits}f}" for number in interval)
    return f"{value}\n{low}–{high}"
