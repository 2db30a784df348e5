"""Quality of samples against evaluations and seconds, of every sampler on the preset digits.

Quality is the Fréchet distance in a classifier's features with its 95 % interval. The reference is
annealed Langevin dynamics of 10 levels × 100 steps in eager float32: as in the paper, from σ = 1 to
0.01 with ε = 2e-5, and between the model's own σ with the ε of `suggest`. A plan is no worse if its
distance is at most the paper's, whatever the intervals. Seconds are of all samples, on the model as
`optimize` makes it; `scorefield evaluate RUN --frontier` does the same for any run.
"""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from scorefield import runs
from scorefield.evaluate import evaluate, frontier_plans, gather_samples, open_run
from scorefield.evaluate.figure import Figure
from scorefield.evaluate.quality import FRECHET
from scorefield.model import ScoreModel
from scorefield.noise import geometric
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS
from scorefield.sample import Plan, make_plan, suitable_samplers
from scorefield.show.progress import progress

from . import Setting
from .table import Cell, Table

QUICK_TRAINING = ["training.steps=20", "training.warmup=1"]
BUDGETS = (4, 6, 8, 10, 20, 40)
QUICK_BUDGETS = (6, 10)
"""Evaluations of a plan, approximately."""
LEVELS = 10
REPEATS = 5
"""Times that each plan except for the references is timed."""


def run(setting: Setting) -> Iterator[Table]:
    n, steps, budgets = (60, 2, QUICK_BUDGETS) if setting.quick else (360, 100, BUDGETS)
    model, data, _, weights = open_run(train(setting), device=setting.device)
    eager, references = copy.deepcopy(model), langevin_plans(model, steps)
    names = suitable_samplers(model)
    plans = [plan for name in names for plan in frontier_plans(model, name, budgets)]
    options: dict[str, Any] = {"features": "classifier", "bits": 0, "progress": True}
    options |= {"n": n, "batch": n, "seed": setting.seed, "frontier": plans}
    evaluation = evaluate(model, data, plans=references, **options)
    timings = [[figure.plan["seconds"]] for figure in evaluation.frontier]
    rows: list[list[Cell]] = []

    def add(plan: Plan, seconds: float, figure: Figure) -> None:
        evaluations = round(figure.plan["evaluations"])
        gain = rows[0][2] / seconds if rows else 1.0
        numbers = (seconds, gain, figure.value, figure.low, figure.high)
        rows.append([plan.name, evaluations, *numbers])

    def seconds(model: ScoreModel, plan: Plan) -> float:
        features = evaluation.features
        return gather_samples(model, n, plan, features, seed=setting.seed, batch=n).seconds

    for plan in references:
        add(plan, seconds(eager, plan), evaluation.figure(FRECHET, plan.name))
    with warnings.catch_warnings():  # with few levels, churn exceeds the largest σ
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(REPEATS - 1):
            for plan, times in zip(plans, timings, strict=True):
                times.append(seconds(model, plan))
    for plan, times, figure in zip(plans, timings, evaluation.frontier, strict=True):
        add(plan, median(times), figure)
    columns = {"sampler": "", "NFE": "d", "seconds": ".3f", "times faster": ".1f"}
    columns |= dict.fromkeys(["Fréchet", "from", "to"], ".3f")
    about = f"Reference: {evaluation.reference}; {evaluation.features.about}. Weights: {weights}."
    yield Table("frontier, digits", columns, rows, [about, conclusion(rows)])


def train(setting: Setting) -> Path:
    """Train the preset, unless its directory holds it; return the directory."""
    place = setting.out / "models" / ("digits-quick" if setting.quick else "digits")
    changes = [f"seed={setting.seed}", f"machine.device={setting.device}"]
    experiment = override(PRESETS["digits"], changes + QUICK_TRAINING * setting.quick)
    steps = experiment.training.steps
    runs.finish(experiment, place, watch=lambda run: progress(run, steps, "digits", done=run.step))
    return place


def langevin_plans(model: ScoreModel, steps: int) -> list[Plan]:
    """Return the references: the paper's plan, and one between the model's own levels."""
    options = {"steps": steps, "epsilon": 2e-5}
    title, sigmas = "annealed Langevin, the {} σ", geometric(1.0, 0.01, LEVELS)
    paper = Plan("annealed_langevin", sigmas, options, title=title.format("paper’s"))
    options = {"levels": LEVELS, "denoise": False, "title": title.format("model’s")}
    return [paper, make_plan(model, "annealed_langevin", steps, **options)]


def conclusion(rows: list[list[Cell]]) -> str:
    """Return the fastest plan whose distance is at most that of the first row, in words."""
    (_, evaluations, _, _, distance, *_), *_ = rows
    steps = f"{evaluations:,}-step annealed Langevin"
    good = [row for row in rows[2:] if row[4] <= distance]
    if not good:
        return f"No sampler has as small a Fréchet distance as {steps}."
    name, evaluations, _, factor, *_ = min(good, key=lambda row: row[2])
    plan = f"{name} with {evaluations} evaluations"
    return f"{plan}: no larger a Fréchet distance than {steps}, in {factor:.0f} times less time."
