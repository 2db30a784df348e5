"""The run that a model belongs to: its configuration, plan, decoder of latents, and lock."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import MODEL_FILE, load_stored, read_tensors, run_directory
from ..convert import is_other
from ..data import LATENTS_FILE, Latents
from ..disk import is_locked
from ..inverse import Guidance
from ..model import ScoreModel
from ..sample import Plan, make_plan
from ..score import EVERY_SIGMA
from . import config
from .build import build_plan

GUIDE_FILE = "guide.safetensors"
"""File of a run's average at an earlier step, which its samples are guided away from."""


def choose_plan(
    run: str | Path,
    model: ScoreModel,
    sampler: str | None = None,
    steps: int | None = None,
    *,
    guided: bool = True,
) -> Plan:
    """Return the run's own plan, unless another sampler is asked for.

    Its guidance, if it has one, is for the run's model, not for an earlier model of the run, and is
    left out unless the plan is to be `guided`.
    """
    run = Path(run)
    experiment = read_settings(run)
    if experiment is None:
        return make_plan(model, sampler, steps)
    sampling = experiment.sampling
    plan = build_plan(model, sampling, sampler, steps)
    if sampling.guidance == 1 or plan.sampler != sampling.sampler or not guided:
        return plan
    if sampling.guide is None:
        raise ValueError(
            f"{run_directory(run)}/config.json: sampling.guidance={sampling.guidance:g}, but the "
            "run has kept no earlier average to guide away from: set it to 1, or raise "
            "training.steps too and resume the run"
        )
    has_model = (run / MODEL_FILE).exists()
    later = has_model and read_tensors(run / MODEL_FILE).about.get("step", 0) > sampling.guide
    return guide_plan(plan, run, model, sampling) if later else plan


def guide_plan(plan: Plan, run: Path, model: ScoreModel, sampling: config.Sampling) -> Plan:
    """Return a run's own plan with the autoguidance of the run."""
    path = run / GUIDE_FILE
    fix = "put the file back, or set sampling.guidance to 1 in config.json (sample: --guidance 1)"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, the average of step {sampling.guide} that the run's samples are "
            f"guided away from: {fix}"
        )
    stored = read_tensors(path)
    if (step := stored.about.get("step")) != sampling.guide:
        raise ValueError(f"{path} is of step {step}, but sampling.guide={sampling.guide}: {fix}")
    weak = load_stored(stored).to(model.device or "cpu")
    interval = sampling.guidance_interval or EVERY_SIGMA
    return replace(
        plan,
        guidance=Guidance(sampling.guidance, interval, weak),
        title=f"{plan.sampler}, guided",
        note=f"guided away from the average of step {step} with weight {sampling.guidance:g}, so "
        "not of the data's distribution",
    )


def read_settings(run: Path) -> config.Experiment | None:
    """Return the configuration of the run that a model belongs to, if it does to one."""
    path = run_directory(run) / "config.json"
    return config.read(path) if path.exists() and not is_other(run) else None


def is_training(run: Path) -> bool:
    """Return True while a process trains a run."""
    return is_locked(run_directory(run))


def is_of_latents(run: Path) -> bool:
    """Return True if the samples of a run are latents."""
    return (run_directory(run) / LATENTS_FILE).exists()


def open_decoder(run: Path, shape: torch.Size) -> tuple[Callable[[Tensor], Tensor], torch.Size]:
    """Return the function that makes images of a run's samples, if they are latents, and a shape.

    The shape is that of a decoded sample.
    """
    if not is_of_latents(run):
        return (lambda x: x), shape
    decode = Latents.read(run_directory(run)).decode
    return decode, decode(torch.zeros(1, *shape)).shape[1:]
