"""The run that a model belongs to: its configuration, plan, decoder of latents, and lock."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import run_directory
from ..convert import is_other
from ..data import LATENTS_FILE, Latents
from ..disk import is_locked
from ..model import ScoreModel
from ..sample import Plan, make_plan
from . import config
from .build import build_plan


def choose_plan(run: Path, model: ScoreModel, sampler: str | None, steps: int | None) -> Plan:
    """Return the run's own plan, unless another sampler is asked for."""
    experiment = read_settings(run)
    if experiment is None:
        return make_plan(model, sampler, steps)
    return build_plan(model, experiment.sampling, sampler, steps)


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
