"""The models whose samples are compared: each is trained once, in a folder of its own.

digits   the preset
photos   a small UNet on crops of 16 × 16, for the preset of the name takes days on a CPU
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield import runs
from scorefield.data import Dataset, Part, Source, all_samples
from scorefield.evaluate import Features, make_features, open_run
from scorefield.model import ScoreModel
from scorefield.noise import seeded
from scorefield.runs.config import Data, Experiment, Keeping, Machine
from scorefield.runs.presets import PRESETS
from scorefield.samplers import progress

from .setting import Setting

QUICK = 20
"""Steps of training, only to see whether it runs."""
CONVOLVED = (32, 64)
"""Filters of the two layers that see images without classes."""
FEW = 10_000
"""Images that are looked at, at most."""


def digits() -> Experiment:
    """The preset of the name."""
    return PRESETS["digits"]()


def photos() -> Experiment:
    """The preset scaled down: crops of 16 × 16, 16 filters, 4,000 steps of 32, not 50,000 of 64."""
    made = PRESETS["photos"]()
    small = {"width": 16, "multipliers": [1, 2], "blocks": 1, "attention": []}
    return replace(
        made,
        data=Data("photos", {"side": 16}, flip=True),
        network=made.network | small,
        training=replace(made.training, steps=4000, batch=32, rate=2e-3, warmup=100, ema=0.998),
        keeping=Keeping(samples=0, best="last"),
        machine=Machine(threads=1),
    )


MODELS: dict[str, Callable[[], Experiment]] = {
    "digits": digits,
    "photos": photos,
}


class Subject(NamedTuple):
    """A trained model with its data, the name of its run, and which weights it has."""

    name: str
    model: ScoreModel
    data: Dataset
    weights: str


def open_subject(place: Path, device: str) -> Subject:
    """Open a run."""
    model, data, _, weights = open_run(place, device=device)
    return Subject(str(place), model, data, weights)


def trained(setting: Setting, name: str) -> Subject:
    """The model of a name, whose run is begun, gone on with, or found complete; or that of a run.

    Args:
        setting: its folder has the runs.
        name: in `MODELS`, or a run's directory.
    """
    if name not in MODELS:
        return open_subject(Path(name), setting.device)
    place = place_of(setting, name)
    there = (place / "config.json").exists()
    begun = runs.resume(place) if there else run.start(experiment(setting, name), place)
    if begun.experiment.seed != setting.seed:
        raise ValueError(f"{place} is a run of another seed: remove it, or name another --out")
    steps = begun.experiment.training.steps
    if begun.step < steps:
        print(f"  {place}: training, step {begun.step} to {steps}", flush=True)
    for _ in progress(begun, steps - begun.step):
        pass
    torch.set_num_threads(setting.threads)  # a run has its own
    return open_subject(place, setting.device)


def place_of(setting: Setting, name: str) -> Path:
    """The directory of a model's run."""
    return setting.out / "models" / (f"{name}-quick" if setting.quick else name)


def described(subject: Subject, name: str) -> str:
    """A model as a sentence."""
    what = inspect.getdoc(MODELS[name]) if name in MODELS else f"The run {subject.name}."
    return f"{what} Weights: {subject.weights}."


def experiment(setting: Setting, name: str) -> Experiment:
    """What is to be run, here."""
    made = MODELS[name]()
    training = made.training
    if setting.quick:
        training = replace(training, steps=QUICK, warmup=1)
    machine = replace(made.machine, device=setting.device)
    return replace(made, training=training, machine=machine, seed=setting.seed)


# ── In what samples are compared ─────────────────────────────────────────────────────────────────


def features_of(data: Dataset, n: int) -> tuple[Features, ...]:
    """Those that n samples can be compared in, the first the best.

    Of data with classes a classifier's, of other images those of random convolutions; and all
    numbers of a sample, where they are fewer than the samples or there is nothing else.
    """
    best = list[Features]()
    if data.classes:
        best.append(make_features("classifier", data))
    elif data.kind == "images":
        best.append(convolved(data))
    few = data.train.shape.numel() < n
    return *best, *([make_features("pixels", data)] if few or not best else [])


def compared(data: Dataset) -> tuple[str, Source]:
    """What samples are held against: not what a classifier has learned from, else the training.

    Of the photographs other regions are held out, which are further from the training crops than
    the model's samples are.
    """
    name, held = ("held out", data.test) if data.classes else ("to learn from", data.train)
    held = held or data.train
    return name, Part(held, torch.arange(0, len(held), -(-len(held) // FEW)))


def convolved(data: Dataset) -> Features:
    """Means over an image of two layers of random convolutions, always the same, with ReLU.

    Principal components would not do: of linear features the two moments are those of the prior,
    whose own samples would be the best.
    """
    x = all_samples(data.train, FEW)
    centre, scale = x.mean(), x.std()
    noise, sizes = seeded(0), (x.shape[1], *CONVOLVED)
    weights = [
        noise(torch.empty(1, after, before, 3, 3))[0] * (2 / (9 * before)) ** 0.5
        for before, after in pairwise(sizes)
    ]

    def extract(x: Tensor) -> tuple[Tensor, None]:
        h = (x.float().cpu() - centre) / scale
        for stride, weight in enumerate(weights, 1):
            h = F.conv2d(h, weight, stride=stride).relu()
        return h.mean((2, 3)), None

    about = f"{sizes[-1]} means of random convolutions"
    return Features(about, about, extract)
