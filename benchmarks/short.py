"""Samplers of a network after a short training, by the Fréchet distance of 2,000 samples.

Needs `--data IMAGES`. The network is the first that a budget takes on a CPU, after 1,500 steps.
Autoguidance goes away from its checkpoint of half the steps. The judge is a classifier fitted to
the training part, and the middle third of that part is the reference.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from scorefield import runs
from scorefield.checkpoint import load
from scorefield.data import Part, all_samples, load_data
from scorefield.evaluate.features import make_features
from scorefield.fast.optimize import optimize
from scorefield.inverse import Guidance
from scorefield.metrics import frechet
from scorefield.model import ScoreModel
from scorefield.runs.budget import CANDIDATES, fit_images
from scorefield.runs.choose import choose_experiment
from scorefield.sample import make_plan, sample

from . import Setting
from .contest import AT_ONCE
from .table import Cell, Table

LEARNING = ("training.references=2048", "levels.mean=-0.4", "levels.std=1.4")
"""Averaged targets, with slightly larger and less spread σ than a budget has."""
SHORT_PLANS = {
    "Heun": ("heun", 16, {}, 1.0),
    "Heun with churn": ("churn", 16, {"amount": 10, "s_max": 3}, 1.0),
    "SDE-DPM-Solver++": ("dpm_solver_sde", 32, {}, 1.0),
    "SDE-DPM-Solver++, autoguidance": ("dpm_solver_sde", 16, {}, 2.0),
    "SDE-DPM-Solver++, as a budget guides": ("dpm_solver_sde", 21, {}, 1.5),
}
"""By title: the sampler, its levels, its options and the weight of autoguidance."""


def run(setting: Setting) -> Iterator[Table]:
    if setting.data is None:
        raise ValueError("short trains on images: name them, as in --data pictures/")
    data = load_data(setting.data)
    n, steps = (AT_ONCE, 40) if setting.quick else (2_000, 1_500)
    features, third = make_features("classifier", data), len(data.train) // 3
    images = all_samples(Part(data.train, torch.arange(third, 2 * third)))
    real = torch.cat([features.extract(x)[0] for x in images.split(AT_ONCE)])
    model, weak = train_for_steps(setting, data.train.shape, steps)
    rows: list[list[Cell]] = []
    for title, (name, levels, options, weight) in setting.select(SHORT_PLANS).items():
        plan = make_plan(model, name, levels, **options)
        guidance = Guidance(weight, (0.1, 5.0), weak) if weight > 1 else 1.0
        seeds = range(setting.seed, setting.seed + n // AT_ONCE)
        x = torch.cat([sample(model, AT_ONCE, plan, seed=s, guidance=guidance) for s in seeds])
        distance = frechet(features.extract(x.clamp(0, 1))[0], real)
        rows.append([title, plan.evaluations, distance])
    heads = {"sampler": "", "evaluations": "d", "Fréchet distance": ".2f"}
    notes = [f"{n} samples after {steps} steps. {features.about}."]
    yield Table(f"{data.name}, samplers", heads, rows, notes)


def train_for_steps(
    setting: Setting, shape: tuple[int, ...], steps: int
) -> tuple[ScoreModel, ScoreModel]:
    """Train for `steps`, otherwise like a budget; return the network and that of half the steps."""
    chosen = CANDIDATES["cpu"][0]
    network = json.dumps(fit_images(chosen.network, *shape[1:]))
    settings = [
        f"network={network}", f"seed={setting.seed}", "data.flip=false", *chosen.settings,
        *LEARNING, f"training.steps={steps}", f"training.batch={chosen.batch}",
        f"training.rate={chosen.rate}", "training.schedule=constant", "keeping.best=last",
        f"training.cooldown=[[{round(0.6 * steps)},{steps}]]", f"training.warmup={steps // 10}",
        f"training.ema={1 - 1 / (chosen.ema * steps)}", f"keeping.checkpoint={steps // 2}",
    ]  # fmt: skip
    experiment = choose_experiment("photos", source=str(setting.data), settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        model = runs.finish(experiment, Path(folder) / "run")
        weak = load(Path(folder) / f"run/checkpoints/{steps // 2:08}.safetensors")
    for trained in (model, weak):
        optimize(trained, batch=AT_ONCE)
    return model, weak
