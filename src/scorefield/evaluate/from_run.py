"""A run's model, data and plan, from its directory."""

from __future__ import annotations

from pathlib import Path

from .. import distributed
from ..checkpoint import load, read_stored
from ..data import Dataset, load_data
from ..model import ScoreModel
from ..runs import config
from ..runs.config import Experiment, Sampling
from ..runs.resolve import choose_device
from ..runs.resume import check_data
from ..runs.state import checkpoints, raw_weights
from ..sample import Plan, make_plan


def open_run(
    directory: str | Path, *, raw: bool = False, device: str = "auto"
) -> tuple[ScoreModel, Dataset, Experiment, str]:
    """Return a run's model, data and experiment, and which weights the model has, in words.

    Data that have changed since the training are refused.

    Args:
        directory: the run's directory.
        raw: take the last weights in training, not their average.
        device: where the model computes.
    """
    run = Path(directory)
    if not (run / "config.json").exists():
        raise ValueError(
            f"{run} holds no run: there is no config.json in it, which names the training data"
        )
    experiment = config.read(run / "config.json")
    data = load_data(experiment.data.source, **experiment.data.options)
    model, weights = _raw_model(run) if raw else _averaged_model(run, experiment)
    if model.prior is None or model.shape != data.train.shape:
        raise ValueError(
            f"{run}: its model is for samples of {model.shape}, and {data.name} has "
            f"{tuple(data.train.shape)}: the data have changed since"
        )
    check_data(run, experiment, data)
    return model.to(distributed.local_device(choose_device(device))), data, experiment, weights


def _averaged_model(run: Path, experiment: Experiment) -> tuple[ScoreModel, str]:
    step, decay = read_stored(run).about.get("step"), experiment.training.ema
    kind = f"averaged with decay {decay}" if decay else "raw, as the run keeps no average"
    return load(run), f"{kind}, step {step}"


def _raw_model(run: Path) -> tuple[ScoreModel, str]:
    paths = checkpoints(run)
    if not paths:
        raise ValueError(f"{run} has no checkpoints, which hold the raw weights")
    model, stored = load(paths[-1]), read_stored(paths[-1])
    model.net.load_state_dict(raw_weights(stored))
    return model, f"raw, step {stored.about['step']}"


def plan_of_run(
    model: ScoreModel, own: Sampling, sampler: str | None = None, steps: int | None = None
) -> Plan:
    """Return the run's own plan, or the plan of another sampler or number of steps."""
    if sampler in (None, own.sampler):
        return make_plan(model, own.sampler, own.steps if steps is None else steps, **own.options)
    return make_plan(model, sampler, steps)
