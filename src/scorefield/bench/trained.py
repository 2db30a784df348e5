"""The models whose samples are compared: each is trained once, in a folder of its own.

digits   the preset
photos   a small UNet on crops of 16 × 16, for the preset of the name takes days on a CPU
ncsn     the first paper's network with 16 filters on the digits, at its ten levels
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .. import run
from ..config import Data, Experiment, Keeping, Machine
from ..data import Dataset, everything
from ..evaluate import FEATURES, Subject
from ..evaluate.features import Features
from ..presets import PRESETS
from ..samplers import progress
from .setting import Setting

QUICK = 20
"""Steps of training, only to see whether it runs."""
PRINCIPAL = 64
"""Components that stand for images without classes,"""
FEW = 10_000
"""of as many images."""


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


def trained(setting: Setting, name: str) -> Subject:
    """The model of a name, whose run is begun, gone on with, or found complete; or that of a run.

    Args:
        setting: its folder has the runs.
        name: in `MODELS`, or a run's directory.
    """
    if name not in MODELS:
        return Subject.of(Path(name), device=setting.device)
    place = setting.out / "models" / (f"{name}-quick" if setting.quick else name)
    there = (place / "config.json").exists()
    begun = run.resume(place) if there else run.start(experiment(setting, name), place)
    if begun.experiment.seed != setting.seed:
        raise ValueError(f"{place} is a run of another seed: remove it, or name another --out")
    steps = begun.experiment.training.steps
    if begun.step < steps:
        print(f"  {place}: training, step {begun.step} to {steps}", flush=True)
    for _ in progress(begun, steps - begun.step):
        pass
    torch.set_num_threads(setting.threads)  # a run has its own
    return Subject.of(place, device=setting.device)


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


def features_of(subject: Subject, n: int) -> tuple[Features, ...]:
    """Those that n samples can be compared in, the first the best.

    Of data with classes a classifier's, of others principal components; and all numbers of a
    sample, where they are fewer than the samples.
    """
    data, device = subject.data, subject.device
    best = FEATURES["classifier"](data, None, device) if data.classes else principal(data)
    plain = FEATURES["pixels"](data, None, device)
    return (best, plain) if data.train.shape.numel() < n else (best,)


def principal(data: Dataset) -> Features:
    """The coordinates of a sample along the axes on which the training data vary most."""
    x = everything(data.train, FEW).flatten(1).double()
    mean, cov = x.mean(0), x.T.cov()
    axes = torch.linalg.eigh(cov).eigenvectors[:, -PRINCIPAL:]
    share = (axes.T @ cov @ axes).trace() / cov.trace()
    about = f"{axes.shape[1]} principal components, {100 * share:.1f} % of the variance"

    def extract(x: Tensor) -> tuple[Tensor, None]:
        return ((x.flatten(1).cpu().double() - mean) @ axes).float(), None

    return Features(about, about, extract)
