"""Evaluate the model of a run, found with its data and its plan in the run's directory."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import distributed
from ..checkpoint import load_stored, newest_checkpoint, read_tensors, run_directory
from ..data import Dataset
from ..inverse import Guidance
from ..model import ScoreModel
from ..runs.config import Experiment
from ..runs.own_plan import choose_plan
from ..runs.resume import OwnData, open_data
from ..sample import suitable_samplers
from .evaluation import Evaluation
from .features import make_features
from .grid import FIT_SAMPLES
from .judge import evaluate, training_labels
from .plans import fit_plan, frontier_plans


def evaluate_run(
    directory: str | Path,
    *,
    features: str = "pixels",
    inception: Path | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    fit_grid: bool = False,
    guidance: Guidance | None = None,
    frontier: bool = False,
    data: OwnData | None = None,
    raw: bool = False,
    device: str = "auto",
    **options: Any,
) -> Evaluation:
    """Judge the model of a run by its own plan, or by one with another sampler or `steps`.

    `guidance` is of the plan's samples, by default the run's own; all else is of the data's score.
    With `fit_grid` the plan's levels are fitted, as by the function of that name, to these samples.
    `frontier` adds every sampler for such a model at several costs. See `make_features` for
    `features` and `inception`, `open_run` for `data`, `raw` and `device`; `options` are those of
    `evaluate`.
    """
    model, dataset, experiment, weights = open_run(directory, data=data, raw=raw, device=device)
    plan = choose_plan(Path(directory), model, sampler, steps, guided=guidance is None)
    if guidance is not None and (guidance.weight != 1 or guidance.classifier is not None):
        note = f"guided with weight {guidance.weight:g}, so not of the data's distribution"
        plan = replace(plan, guidance=guidance, title=f"{plan.name}, guided", note=note)
    if fit_grid:
        classes = dataset.classes and model.classes
        plan = fit_plan(model, plan, training_labels(dataset, FIT_SAMPLES, 0) if classes else None)
    others = suitable_samplers(model) if frontier else []
    return evaluate(
        model,
        dataset,
        plans=[plan],
        features=make_features(features, dataset, weights=inception, device=model.device or "cpu"),
        frontier=[plan for name in others for plan in frontier_plans(model, name)],
        flips=experiment.data.flip,
        weights=weights,
        run=run_directory(Path(directory)),
        **options,
    )


def open_run(
    directory: str | Path, *, data: OwnData | None = None, raw: bool = False, device: str = "auto"
) -> tuple[ScoreModel, Dataset, Experiment, str]:
    """Return a run's model, data, experiment and a description of the model's weights.

    Of a model's file in a run, such as one that `average` wrote, it is that model.
    `data` is the new place of data that were moved, or the data that `start` was given; data that
    the run did not start with are refused. `raw` takes the last weights in training instead of
    their average.
    """
    path, run = Path(directory), run_directory(Path(directory))
    if raw and path != run:
        raise ValueError(f"raw: the raw weights are in the checkpoints of {run}, so name it alone")
    experiment, dataset = open_data(run, data)
    stored, damaged = newest_checkpoint(run) if raw else (read_tensors(path), {})
    if stored is None:
        raise ValueError(f"{run} has no undamaged checkpoint, which holds the raw weights")
    for error in damaged.values():
        warnings.warn(f"{error}; {stored.path} is used", stacklevel=3)
    model, decay = load_stored(stored), experiment.training.ema
    kind = f"averaged with decay {decay:.6g}" if decay else "raw, as the run keeps no average"
    if "length" in stored.about:
        kind = f"averaged over a relative length of {stored.about['length']:g}"
    if raw:
        model.net.load_state_dict(stored.under("extra.raw"))
        kind = "raw"
    model = model.to(distributed.local_device(distributed.choose_device(device)))
    return model, dataset, experiment, f"{kind}, step {stored.about.get('step')}"
