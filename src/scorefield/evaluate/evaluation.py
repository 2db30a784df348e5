"""The result of an evaluation: one object from which the table, the JSON and the report come."""

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
from ..sample import Plan, describe_evaluations
from ..show.text import text_table
from .features import Features
from .figure import NO_VALUE, Figure, Interval, in_text, number
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
    """Figures of a model and of its samples by one or more plans, and what they depend on."""

    model: ScoreModel
    data: Dataset
    weights: str  # description of the model's weights
    seed: int
    reference: str  # data set, split and number of the real samples
    features: Features
    plans: tuple[Plan, ...]
    real: Gathered  # the reference
    samples: Mapping[str, Gathered]  # of each plan, by its name
    figures: tuple[Figure, ...]  # all; those of a plan have its name in `plan["name"]`
    floor: Mapping[str, Interval]  # figures of as many real samples of the other split, by name
    floor_sets: int  # number of random sets of real samples behind `floor`
    shares: Mapping[str, tuple[float, ...]]  # of the classes: "real", and each plan's samples
    memory: Mapping[str, Memory]  # memorisation by each plan; empty where it cannot be measured
    sigmas: Float[Tensor, "levels"]
    losses: Mapping[str, Float[Tensor, "levels n"]]  # of samples at each of `sigmas`, by curve
    frontier: tuple[Figure, ...] = ()  # Fréchet distances of further plans
    notes: tuple[str, ...] = ()  # reasons why something was not measured
    run: Path | None = None  # directory of the run, if the model is from one

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
        return [f for f in self.figures if (f.plan["name"] if f.plan else None) == plan]

    def summary(self) -> dict[str, float]:
        """Return the compared figures that were measured, by the plan's name and the column."""
        pairs = [(p.name, column) for p in self.plans for column in COMPARED]
        figures = {f"{p}/{column}": self.figure(COMPARED[column], p) for p, column in pairs}
        return {k: f.value for k, f in figures.items() if f and math.isfinite(f.value)}

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
        finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
        return json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False)

    def table(self) -> str:
        """Return a text table of the plans, or of all figures if there is one plan."""
        if len(self.plans) > 1:
            heads, rows = self.comparison()
            for row in rows:  # with the interval of the Fréchet distance alone
                value, _, interval = row[4].partition("\n")
                shown = f"{value} ({interval})" if interval else value
                row[4:] = [shown, *(cell.partition("\n")[0] for cell in row[5:])]
            return text_table(heads, rows)
        heads = ["", "value", "95 % interval", "real", "samples", "warning"]
        texts = ((f, *in_text(f)) for f in self.figures)
        rows = [
            [f.name, value, ends or "–", number(f.real), str(f.samples), f.warning]
            for f, value, ends in texts
        ]
        return text_table(heads, rows, left=(0, 5))

    def comparison(self) -> tuple[list[str], list[list[str]]]:
        """Return heads and rows that compare the plans; an interval is its cell's second line."""
        plans = {p.name: {f.name: f for f in self.of_plan(p.name)} for p in self.plans}
        columns = {
            k: name for k, name in COMPARED.items() if any(name in f for f in plans.values())
        }

        def cells(figures: Mapping[str, Interval | Figure]) -> list[str]:
            shown = (figures.get(name, NO_VALUE) for name in columns.values())
            return ["\n".join(in_text(figure)).rstrip() for figure in shown]

        rows = list[list[str]]()
        for plan in self.plans:
            samples = self.samples[plan.name]
            nfe = describe_evaluations(samples.evaluations)
            cost = [nfe, f"{samples.seconds:.1f}", str(samples.n)]
            rows.append([plan.name, *cost, *cells(plans[plan.name])])
        if self.floor:
            real = {NEAREST: Interval(1, math.nan, math.nan), **self.floor}
            sets = f"{self.floor_sets} × {samples.n}"
            rows.insert(0, [f"real {self.data.name}", "–", "–", sets, *cells(real)])
        return ["", "NFE", "seconds", "samples", *columns], rows

    def caption(self) -> str:
        """Return what the columns of the comparison mean."""
        sets = f"{self.floor_sets} random sets" if self.floor_sets > 1 else "a random set"
        return (
            f"Reference: {self.reference}; features: {self.features.about}; weights "
            f"{self.weights}; seed {self.seed}. NFE: evaluations of the score per sample. Real: "
            f"the mean of {sets} of as many samples of the other split, and the range of 95 % of "
            "such sets; other rows have the 95 % interval. Nearest: median distance to the "
            "training data over that of held-out data; far below 1 is copying."
        )
