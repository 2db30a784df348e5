"""The result of an evaluation: one object from which the table, the JSON and the report come."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..data import Dataset
from ..model import ScoreModel
from ..sample import Plan
from ..show.text import text_table
from .features import Features
from .figure import Figure, Interval, in_text, number
from .gather import Gathered
from .memory import NEAREST, Memory
from .quality import COMMONEST, COVERAGE, FRECHET, PRECISION, RAREST

COMPARED = {
    "Fréchet": FRECHET,
    "precision": PRECISION,
    "coverage": COVERAGE,
    "rarest class": RAREST,
    "commonest": COMMONEST,
    "nearest": NEAREST,
}
"""Columns of the comparison of several plans, each with the name of its figure."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of a model and of its samples by one or more plans, and what they depend on.

    Attributes:
        model: The model.
        data: Its training data and held-out data.
        weights: Weights of the network, in words.
        seed: Seed of the samples and of the measurement.
        reference: Data set, split and number of the real samples.
        features: Features in which samples are compared.
        plans: Plans that were judged.
        samples: Samples of each plan, by its name.
        figures: All figures; those of a plan have its name in `draw["plan"]`.
        floors: For each number of samples, the figures of as many real ones of the other split.
        floor_sets: Number of random sets of real samples behind `floors`.
        shares: Class shares of the real samples (under "real") and of each plan's.
        memory: Memorisation for each plan; empty where it cannot be measured.
        sigmas: Noise levels of `losses`.
        losses: Loss of each sample at each level, for several curves.
        frontier: Fréchet distances of further plans, for quality against cost.
        notes: Reasons why something was not measured.
        run: Directory of the run, if the model is from one.
    """

    model: ScoreModel
    data: Dataset
    weights: str
    seed: int
    reference: str
    features: Features
    plans: tuple[Plan, ...]
    samples: Mapping[str, Gathered]
    figures: tuple[Figure, ...]
    floors: Mapping[int, Mapping[str, Interval]]
    floor_sets: int
    shares: Mapping[str, tuple[float, ...]]
    memory: Mapping[str, Memory]
    sigmas: Float[Tensor, "levels"]
    losses: Mapping[str, Float[Tensor, "levels n"]]
    frontier: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    run: Path | None = None

    @property
    def name(self) -> str:
        """The run's directory, or the data's name."""
        return self.data.name if self.run is None else str(self.run)

    @property
    def copies_training(self) -> bool:
        """True if the samples of any plan show memorisation."""
        return any(memory.copies_training for memory in self.memory.values())

    @property
    def verdict(self) -> str:
        """The finding on memorisation, for the plan whose samples are nearest to training data."""
        return min(self.memory.values(), key=lambda m: m.ratio.value).verdict if self.memory else ""

    def figure(self, name: str, plan: str | None = None) -> Figure | None:
        """Return a figure of a plan or of the model itself; None if it was not measured."""
        return next((f for f in self.of_plan(plan) if f.name == name), None)

    def of_plan(self, plan: str | None) -> list[Figure]:
        """Return the figures of a plan, or of the model itself."""
        return [f for f in self.figures if (f.draw["plan"] if f.draw else None) == plan]

    def as_json(self) -> str:
        """Return the figures in JSON, with null for numbers that are not finite."""
        content: dict[str, Any] = {
            "scorefield": version("scorefield"),
            "run": self.name,
            "verdict": self.verdict or None,
            "copies_training": self.copies_training if self.memory else None,
            "notes": self.notes,
            "figures": [asdict(figure) for figure in self.figures],
            "class shares": self.shares,
            "frontier": [asdict(figure) for figure in self.frontier],
        }
        return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)

    def table(self) -> str:
        """Return a text table of the plans, or of all figures if there is one plan."""
        if len(self.plans) > 1:
            heads, rows = self.comparison()
            for row in rows:  # with the interval of the Fréchet distance alone
                value, _, interval = row[4].partition("\n")
                shown = f"{value} ({interval})" if interval else value
                row[4:] = [shown, *(cell.partition("\n")[0] for cell in row[5:])]
            return text_table(heads, rows)
        return text_table(
            ("", "value", "95 % interval", "real", "samples", "warning"),
            [
                (f.name, *in_text(f), number(f.real), str(f.samples), f.warning)
                for f in self.figures
            ],
            left=(0, 5),
        )

    def comparison(self) -> tuple[list[str], list[list[str]]]:
        """Return heads and rows that compare the plans; an interval is its cell's second line.

        Plans with as many samples stand under the real samples of that number.
        """
        names = {figure.name for figure in self.figures if figure.draw}
        columns = {head: name for head, name in COMPARED.items() if name in names}
        rows = list[list[str]]()

        def add(title: str, *cost: str, figures: Mapping[str, Interval | Figure]) -> None:
            cells = (figures.get(name) for name in columns.values())
            texts = ("–" if cell is None else "\n".join(in_text(cell)).rstrip() for cell in cells)
            rows.append([title, *cost, *texts])

        for n, floor in self.floors.items():
            if floor:
                real = {NEAREST: Interval(1, math.nan, math.nan), **floor}
                add(f"real {self.data.name}", "–", "–", f"{self.floor_sets} × {n}", figures=real)
            for plan in self.plans:
                samples = self.samples[plan.name]
                if samples.n == n:
                    cost = str(plan.evaluations), f"{samples.seconds:.1f}", str(n)
                    add(plan.name, *cost, figures={f.name: f for f in self.of_plan(plan.name)})
        return ["", "NFE", "seconds", "samples", *columns], rows

    def caption(self) -> str:
        """Return what the columns of the comparison mean."""
        sets = f"{self.floor_sets} random sets" if self.floor_sets > 1 else "a random set"
        return (
            f"Reference: {self.reference}; features: {self.features.about}; weights "
            f"{self.weights or 'as given'}; seed {self.seed}. NFE: evaluations of the score per "
            f"sample. Real: the mean of {sets} of as many samples of the other split, and the "
            "range of 95 % of such sets; other rows have the 95 % interval. Nearest: median "
            "distance to the training data over that of held-out data; far below 1 is copying."
        )


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON lacks, by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
