"""Quality of samples against evaluations and seconds, of every sampler on a trained model.

Quality is the Fréchet distance with its 95 % interval: in a classifier's features, or those of
random convolutions where there are no classes; and of all numbers of a sample if these are few. The
reference is annealed Langevin dynamics of 10 levels × 100 steps in eager float32: as in the paper,
from σ = 1 to 0.01 with ε = 2e-5, and between the model's own σ with the ε of `suggest`. A plan is
no worse if its distances are at most the smaller of these in all features, whatever the intervals.
Seconds are of all samples, on the model as `optimize` makes it. --only also takes directories of
runs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield import runs
from scorefield.data import Dataset, Part, all_samples
from scorefield.evaluate import (
    Features,
    Interval,
    draw,
    frechet_interval,
    frontier_plans,
    gather_features,
    make_features,
    open_run,
    reference_of,
)
from scorefield.fast.optimize import optimize
from scorefield.model import ScoreModel
from scorefield.noise import geometric, seeded
from scorefield.runs.config import overridden
from scorefield.runs.presets import PRESETS
from scorefield.sample import Plan, make_plan
from scorefield.samplers import SAMPLERS
from scorefield.show.track import track

from . import Setting
from .table import Cell, Table

MODELS: dict[str, list[str]] = {
    "digits": [],
    "photos": [
        *("data.options={side: 16}", "network.width=16", "network.multipliers=[1, 2]"),
        *("network.blocks=1", "network.attention=[]", "training.steps=4000", "training.batch=32"),
        *("training.rate=2e-3", "training.warmup=100", "training.ema=0.998"),
        *("keeping.samples=0", "keeping.best=last", "machine.threads=1"),
    ],
}
"""Presets and what is changed in them: the preset `photos` takes days on a CPU."""
QUICK_TRAINING = ["training.steps=20", "training.warmup=1"]
SAMPLES, QUICK_SAMPLES = 360, 60
BUDGETS, QUICK_BUDGETS = (4, 6, 8, 10, 20, 40), (6, 10)
"""Evaluations of a plan, approximately."""
LEVELS, STEPS, QUICK_STEPS = 10, 100, 2
"""Of annealed Langevin dynamics."""
SHORT = 1.0
"""Seconds; samples that take less are timed five times."""
FILTERS = (32, 64)
"""Of the two layers of random convolutions."""
MAX_REFERENCE = 10_000


class Point(NamedTuple):
    """A plan with its seconds and its distance in each of the features."""

    plan: Plan
    seconds: float
    distances: list[Interval]


def run(setting: Setting) -> Iterator[Table]:
    directories = {part: [] for part in setting.only if (Path(part) / "config.json").exists()}
    for name in setting.select(MODELS | directories):
        yield compare(setting, name)


def compare(setting: Setting, name: str) -> Table:
    """Compare all samplers on one model."""
    place = train(setting, name) if name in MODELS else Path(name)
    model, data, _, weights = open_run(place, device=setting.device)
    n, budgets = (QUICK_SAMPLES, QUICK_BUDGETS) if setting.quick else (SAMPLES, BUDGETS)
    features = choose_features(data, n)
    # the photographs' held-out regions are further from the training crops than samples are
    part, real = ("held-out", data.test) if data.classes else ("training", data.train)
    real = Part(real, torch.arange(0, len(real), -(-len(real) // MAX_REFERENCE)))
    moments = [reference_of(real, each).moments for each in features]

    def judge(model: ScoreModel, plan: Plan) -> Point:
        once = partial(draw, model, n, plan, features[0], seed=setting.seed, batch=n)
        with warnings.catch_warnings():  # churn goes beyond the largest σ
            warnings.simplefilter("ignore", UserWarning)
            samples = once()
            again = [once() for _ in range(5 * (samples.seconds < SHORT))]
        sets = [gather_features([(0, samples.x)], each) for each in features]
        distances = [frechet_interval(s, m) for s, m in zip(sets, moments, strict=True)]
        return Point(plan, median(s.seconds for s in again or [samples]), distances)

    plain, choice = copy.deepcopy(model), optimize(model, batch=n)
    references = [judge(plain, plan) for plan in langevin(model, setting.quick)]
    plans = [plan for sampler in SAMPLERS for plan in frontier_plans(model, sampler, budgets)]
    points = [judge(model, plan) for plan in track(plans, len(plans), f"frontier, {name}")]
    rows: list[list[Cell]] = [
        [
            *(p.plan.name, p.plan.evaluations, p.seconds, references[0].seconds / p.seconds),
            *(*p.distances[0], *(other.value for other in p.distances[1:])),
        ]
        for p in (*references, *points)
    ]
    columns = {"sampler": "", "NFE": "d", "seconds": ".3f", "times faster": ".1f"}
    columns |= dict.fromkeys(["Fréchet", "from", "to"], ".3f")
    columns |= {f"of {each.about}": ".3f" for each in features[1:]}
    notes = [
        f"Settings: {', '.join(MODELS.get(name, ())) or 'as they are'}. Weights: {weights}.",
        f"{n} samples compared with {len(real)} {part} ones, {features[0].about}.",
        f"The network: {choice}.",
        conclusion(references, points),
    ]
    return Table(f"frontier, {name}", columns, rows, notes)


def train(setting: Setting, name: str) -> Path:
    """Train a model, unless its directory holds it; return the directory."""
    place = setting.out / "models" / (f"{name}-quick" if setting.quick else name)
    changes = [*MODELS[name], f"seed={setting.seed}", f"machine.device={setting.device}"]
    experiment = overridden(PRESETS[name](), changes + QUICK_TRAINING * setting.quick)
    runs.finish(
        experiment,
        place,
        watch=lambda run: track(
            run, experiment.training.steps, name, done=run.step, position=lambda u: u.step
        ),
    )
    return place


def langevin(model: ScoreModel, quick: bool) -> list[Plan]:
    """Return the references: the paper's plan, and one between the model's own levels."""
    steps, own = QUICK_STEPS if quick else STEPS, model.precondition.levels
    sigmas = geometric(1.0, 0.01, LEVELS) if own is None else own
    options = {"steps": steps, "epsilon": 0.2 * sigmas[-1].item() ** 2}
    title = "annealed Langevin, the {} σ"
    plans = [Plan("annealed_langevin", sigmas, options, title=title.format("paper’s"))]
    if own is not None:
        return plans
    between = partial(make_plan, model, "annealed_langevin", steps, levels=LEVELS, denoise=False)
    return [*plans, between(title=title.format("model’s"))]


def no_worse(references: Sequence[Point], points: Sequence[Point]) -> list[Point]:
    """Return the points whose every distance is at most each reference's, the fastest first."""
    good = [
        point
        for point in points
        if all(
            distance.value <= reference.distances[i].value
            for reference in references
            for i, distance in enumerate(point.distances)
        )
    ]
    return sorted(good, key=lambda point: point.seconds)


def conclusion(references: Sequence[Point], points: Sequence[Point]) -> str:
    base, good = references[0], no_worse(references, points)
    steps = f"{base.plan.evaluations:,}-step annealed Langevin"
    if not good:
        return f"No sampler has as small a Fréchet distance as {steps}."
    plan, factor = good[0].plan, base.seconds / good[0].seconds
    fastest = f"{plan.name} with {plan.evaluations} evaluations"
    return f"{fastest}: the same Fréchet distance as {steps} at {factor:.0f}× less time."


def choose_features(data: Dataset, n: int) -> list[Features]:
    """Return the features that n samples can be compared in, the best first."""
    chosen = list[Features]()
    if data.classes:
        chosen.append(make_features("classifier", data))
    elif data.kind == "images":
        chosen.append(random_convolutions(data))
    if not chosen or data.train.shape.numel() < n:
        chosen.append(make_features("pixels", data))
    return chosen


def random_convolutions(data: Dataset) -> Features:
    """Return means over an image of two layers of fixed random convolutions with ReLU.

    Principal components would not do: the two moments of linear features are those of the prior,
    whose own samples would be the best.
    """
    x = all_samples(data.train, MAX_REFERENCE)
    centre, scale, noise = x.mean(), x.std(), seeded(0)
    weights = [
        noise(torch.empty(1, after, before, 3, 3))[0] * (2 / (9 * before)) ** 0.5
        for before, after in pairwise((x.shape[1], *FILTERS))
    ]

    def extract(x: Tensor) -> tuple[Tensor, None]:
        h = (x.float().cpu() - centre) / scale
        for stride, weight in enumerate(weights, 1):
            h = F.conv2d(h, weight, stride=stride).relu()
        return h.mean((2, 3)), None

    about = f"{FILTERS[-1]} means of random convolutions"
    return Features(about, about, extract)
