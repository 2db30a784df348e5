"""The configuration of the run that a model belongs to, and the plan to sample it by."""

from pathlib import Path

from ..checkpoint import run_directory
from ..convert import is_other
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
