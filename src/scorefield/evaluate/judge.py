"""`evaluate`: from a model, its data and plans to an `Evaluation`; `evaluate_run` for a run."""

import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from .. import distributed
from ..checkpoint import load_stored, newest_checkpoint, read_tensors, run_directory
from ..data import AUGMENTATION, Dataset, Source
from ..fast.optimize import optimize
from ..model import ScoreModel
from ..noise import check_seed
from ..runs.build import build_plan
from ..runs.config import Experiment
from ..runs.resume import OwnData, open_data
from ..sample import Plan, make_plan
from ..samplers import SAMPLERS
from ..show.progress import stage
from .evaluation import Evaluation
from .features import Features, make_features, read_labels
from .figure import Figure, Interval, spread_interval
from .fit import likelihood_figures, loss_curves, loss_figures
from .gather import Gathered, gather_features, gather_samples, reference_of, source_batches
from .memory import Memory, memorisation
from .plans import frontier_plans
from .quality import class_shares, quality


def evaluate(
    model: ScoreModel,
    data: Dataset,
    *,
    plans: Sequence[Plan] = (),
    n: int = 360,
    features: str | Features = "pixels",
    classifier: Features | None = None,
    reference: Literal["test", "train"] = "test",
    floor_sets: int = 1,
    seed: int = 0,
    bits: int = 32,
    frontier: Sequence[Plan] = (),
    flips: bool = False,
    batch: int = 256,
    weights: str = "as given",
    run: Path | None = None,
    cache: Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Judge a model by its samples, its loss and likelihood, and what it has memorised.

    Several processes share the samples if all of them call it. `optimize` is applied to the model,
    which needs a prior; its device also computes the distances between samples.

    Each of `plans`, by default `make_plan(model)`, gives n samples. They are compared with held-out
    data, or as papers do with the training data (`reference`), in `features`: a name, or from
    `make_features`. `classifier` has probabilities of the data's classes and counts the classes of
    samples; by default it is `features`, if they have them. `floor_sets` random sets of real
    samples show what to expect, and `flips` also compares samples with mirror images of the
    training data. `bits` is the number of held-out samples whose likelihood is computed, 0 for
    none. Of the plans of `frontier`, only the Fréchet distance and the seconds are measured.

    `weights` describes the model's weights, as in "averaged, step 3000"; the report shows the log
    and the configuration of `run`, the directory that the model is from. `cache` is a folder for
    moments of real data, such as `cache_folder()`, and `progress` is reported on stderr.
    """
    plans, device = tuple(plans) or (make_plan(model),), model.device or "cpu"
    _check_counts(plans, seed, n, floor_sets, bits)
    if not isinstance(features, Features):
        features = make_features(features, data, device=device)
    classifier = classifier or (features if features.classes else None)
    source, other = (data.test, data.train) if reference == "test" else (data.train, data.test)
    if source is None:
        raise ValueError(f"{data.name} has nothing held out: use reference='train'")
    split = "held out" if source is data.test else "training data"
    against = f"{data.name}, {split}, {len(source)} samples"

    def enter(title: str) -> AbstractContextManager[None]:
        return stage(f"   {title}") if progress else nullcontext()

    calls = -(-n // batch) * sum(plan.evaluations for plan in plans)
    choice = optimize(model, batch=min(batch, n), evaluations=calls)  # without TF32 from here on
    with enter(f"reference: {against}; features: {features.about}"):
        real = reference_of(source, features, cache)
    if progress and distributed.is_main():
        print(f"   computing: {choice}", file=sys.stderr, flush=True)
    conditional = bool(data.classes and model.classes)
    gather = partial(
        gather_samples, model, n, features=features, seed=seed, bar=progress,
        batch=min(batch, n // distributed.world()),  # every process has at least one sample
        label=training_labels(data, n, seed) if conditional else None,
    )  # fmt: skip
    absent = ", ".join(name for name in model.condition_shapes if name != AUGMENTATION)
    caveat = [f"of the model without a value of {absent}"] * bool(absent)
    samples, notes = {plan.name: gather(plan=plan) for plan in plans}, list[str]()
    compare = partial(
        quality, reference=real, classifier=classifier, table=data.table, seed=seed, device=device
    )
    with enter("real samples of the other split, and nearest neighbours in the training data"):
        floor = _measure_floor(other, n, floor_sets, features, compare, seed)
        memory = _measure_memory(samples, data, flips, notes, device)
    describe = partial(
        _describe, floor=floor, classes="as frequent as in training" * conditional,
        caveat=caveat, features=features.about, reference=against, weights=weights, seed=seed,
    )  # fmt: skip
    figures = list[Figure]()
    for plan in plans:
        copies = memory[plan.name].figures if memory else ()
        with enter(f"{plan.name}: figures and their intervals"):
            own = [*compare(samples[plan.name]), *copies]
        figures += describe(own, plan, samples[plan.name])
    with enter("loss at each noise level, and likelihood"):
        sigmas, losses, fit = _measure_fit(model, data, bits, seed, notes)
    unclassed = ["of the model without a class"] * conditional
    for figure in fit:
        warning = "; ".join(filter(None, [*unclassed, *caveat, figure.warning]))
        figures.append(replace(figure, weights=weights, seed=seed, warning=warning))
    points = list[Figure]()
    for plan in frontier if real.parts else ():
        with warnings.catch_warnings():  # with few levels, churn exceeds the largest σ
            warnings.simplefilter("ignore", UserWarning)
            gathered = gather(plan=plan)
        with enter(f"{plan.name}: Fréchet distance and its interval"):
            distance = next(quality(gathered, real))
        points += describe([distance], plan, gathered)
    sets = {"real": real} | samples
    return Evaluation(
        model=model, data=data, weights=weights, seed=seed, reference=against, features=features,
        plans=plans, real=real, samples=samples, figures=tuple(figures), floor=floor,
        floor_sets=floor_sets,
        shares={k: class_shares(x, classifier) for k, x in sets.items()} if classifier else {},
        memory=memory, sigmas=sigmas, losses=losses, frontier=tuple(points), notes=tuple(notes),
        run=run,
    )  # fmt: skip


def _check_counts(plans: Sequence[Plan], seed: int, n: int, floor_sets: int, bits: int) -> None:
    check_seed(seed)
    counts = {"n": (n, max(2, distributed.world())), "floor_sets": (floor_sets, 1)}
    for name, (count, least) in (counts | {"bits": (bits, 0)}).items():
        if count < least or count % 1:
            raise ValueError(f"{name}={count}: give a whole number, {least} or more")
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        raise ValueError(f"plans are {', '.join(names)}: give each its own title")


def _measure_floor(
    source: Source | None,
    n: int,
    sets: int,
    features: Features,
    compare: Callable[..., Iterator[Figure]],
    seed: int,
) -> dict[str, Interval]:
    """Return each figure of quality for random sets of n real samples, if there are as many."""
    values, generator = defaultdict[str, list[float]](list), torch.Generator().manual_seed(seed)
    if source is None or len(source) < n:
        return {}
    for _ in range(sets):
        rows = torch.randperm(len(source), generator=generator)[:n]
        some = gather_features(source_batches(source, rows), features)
        for figure in compare(some, intervals=False):
            if not math.isnan(figure.value):
                values[figure.name].append(figure.value)
    return {name: spread_interval(numbers) for name, numbers in values.items()}


def _measure_memory(
    samples: Mapping[str, Gathered],
    data: Dataset,
    flips: bool,
    notes: list[str],
    device: torch.device | str,
) -> dict[str, Memory]:
    """Return the memorisation of each plan's samples, or note why it cannot be measured."""
    try:
        sets = [gathered.x for gathered in samples.values()]
        memories = memorisation(sets, data, flips=flips, device=device)
        return dict(zip(samples, memories, strict=True))
    except ValueError as error:
        notes.append(f"memorisation: {error}")
        return {}


def _measure_fit(
    model: ScoreModel, data: Dataset, bits: int, seed: int, notes: list[str]
) -> tuple[Tensor, Mapping[str, Tensor], list[Figure]]:
    """Return noise levels, losses and the figures of both, and note why a figure is missing."""
    sigmas, losses = loss_curves(model, data, seed=seed)
    figures = [*loss_figures(sigmas, losses, data.name)]
    try:
        figures += likelihood_figures(model, data, bits, seed)
    except ValueError as error:
        notes.append(f"likelihood: {error}")
    return sigmas, losses, figures


def _describe(
    figures: Sequence[Figure],
    plan: Plan,
    gathered: Gathered,
    floor: Mapping[str, Interval],
    classes: str,
    caveat: Sequence[str],
    **shared: Any,
) -> list[Figure]:
    """Add to figures of samples what they depend on and lack, and their values for real samples."""
    about = {
        "name": plan.name,
        "sampler": plan.sampler,
        "evaluations": plan.evaluations,
        "levels": [plan.sigmas[0].item(), plan.sigmas[-1].item(), len(plan.sigmas)],
        "options": plan.options,
        "start": "uniform noise" if plan.uniform else "the model's prior",
        "classes": classes,
        "seconds": gathered.seconds,
    }
    described = list[Figure]()
    for figure in figures:
        real = floor[figure.name].value if figure.name in floor else figure.real
        facts = {name: getattr(figure, name) or value for name, value in shared.items()}
        facts["warning"] = "; ".join(filter(None, [*caveat, figure.warning]))
        described.append(replace(figure, plan=about, real=real, **facts))
    return described


def training_labels(data: Dataset, n: int, seed: int) -> Int[Tensor, "n"]:
    """Return the classes of n random training samples."""
    generator = torch.Generator().manual_seed(seed)
    return read_labels(data.train, torch.randint(len(data.train), (n,), generator=generator))


def evaluate_run(
    directory: str | Path,
    *,
    features: str = "pixels",
    inception: Path | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    frontier: bool = False,
    data: OwnData | None = None,
    raw: bool = False,
    device: str = "auto",
    **options: Any,
) -> Evaluation:
    """Judge the model of a run by its own plan, or by one with another sampler or `steps`.

    `frontier` adds every sampler at several costs. See `make_features` for `features` and
    `inception`, `open_run` for `data`, `raw` and `device`; `options` are those of `evaluate`.
    """
    model, dataset, experiment, weights = open_run(directory, data=data, raw=raw, device=device)
    return evaluate(
        model,
        dataset,
        plans=[build_plan(model, experiment.sampling, sampler, steps)],
        features=make_features(features, dataset, weights=inception, device=model.device or "cpu"),
        frontier=[p for s in SAMPLERS for p in frontier_plans(model, s)] if frontier else [],
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
    kind = f"averaged with decay {decay}" if decay else "raw, as the run keeps no average"
    if "length" in stored.about:
        kind = f"averaged over a relative length of {stored.about['length']:g}"
    if raw:
        model.net.load_state_dict(stored.under("extra.raw"))
        kind = "raw"
    model = model.to(distributed.local_device(distributed.choose_device(device)))
    return model, dataset, experiment, f"{kind}, step {stored.about.get('step')}"
