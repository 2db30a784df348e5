"""`evaluate`: from a model, its data and plans to an `Evaluation`; `evaluate_run` for a run."""

from __future__ import annotations

import sys
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from .. import distributed
from ..checkpoint import load, read_tensors
from ..data import Dataset, load_data
from ..fast.optimize import optimize
from ..model import ScoreModel
from ..runs import config
from ..runs.build import build_plan
from ..runs.config import Experiment
from ..runs.resolve import choose_device
from ..runs.resume import check_data
from ..runs.state import checkpoints, raw_weights
from ..sample import Plan, make_plan
from ..samplers import SAMPLERS
from .evaluation import Evaluation
from .features import Features, make_features, read_labels
from .figure import Figure, Interval, spread_interval
from .fit import likelihood_figures, loss_curves, loss_figures
from .gather import Gathered, draw, gather_features, reference_of, source_batches
from .memory import Memory, memorisation, memory_figures
from .quality import class_shares, quality, share_figures

BUDGETS = (5, 10, 20, 40, 80)
"""Numbers of evaluations of the score, approximately, for the frontier."""


def evaluate(
    model: ScoreModel,
    data: Dataset,
    *,
    plans: Sequence[Plan] = (),
    n: int | Sequence[int] = 360,
    features: str | Features = "pixels",
    classifier: Features | None = None,
    reference: Literal["test", "train"] = "test",
    floor_sets: int = 1,
    seed: int = 0,
    bits: int = 32,
    frontier: Sequence[Plan] = (),
    flips: bool = False,
    batch: int = 256,
    name: str = "",
    weights: str = "",
    run: Path | None = None,
    cache: Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Judge a model by its samples, its loss and likelihood, and what it has memorised.

    Several processes share the samples if all of them call it. The model computes in the way that
    `optimize` chooses, afterwards too.

    Args:
        model: a model with a prior.
        data: its training data and held-out data.
        plans: how to sample; by default `make_plan(model)`.
        n: number of samples, of all plans or of each.
        features: features in which samples are compared: a name in `FEATURES`, or made before.
        classifier: features with probabilities of the data's classes, which count the classes of
            samples; by default `features`, if they have them.
        reference: compare samples with held-out data, or with training data as papers do.
        floor_sets: number of random sets of real samples for the floors.
        seed: seed of the samples and of the measurement.
        bits: number of held-out samples whose likelihood is computed; 0 for none.
        frontier: further plans, of which only the Fréchet distance and the seconds are measured.
        flips: also compare samples with mirror images of the training data.
        batch: number of samples at a time.
        name: name of the model; by default the data's.
        weights: which weights the model has, in words.
        run: directory of the model's run, whose log and configuration the report shows.
        cache: folder for moments of real data, such as `cache_folder()`.
        progress: report progress on stderr.
    """
    plans = tuple(plans) or (make_plan(model),)
    sizes = (n,) * len(plans) if isinstance(n, int) else tuple(n)
    least, names = max(2, distributed.world()), [plan.name for plan in plans]
    if min(sizes) < least or batch < 1 or bits < 0 or floor_sets < 1 or not 0 <= seed < 2**63:
        raise ValueError(
            f"n={', '.join(map(str, sizes))}, batch={batch}, bits={bits}, seed={seed}, "
            f"floor_sets={floor_sets}: give n ≥ {least}, batch ≥ 1, bits ≥ 0, floor_sets ≥ 1 and "
            "a seed from 0 to 2^63 - 1"
        )
    if len(set(names)) < len(names) or len(sizes) != len(plans):
        raise ValueError(
            f"plans are {', '.join(names)}, n={sizes}: give each plan its own title, and one n or "
            "as many as there are plans"
        )
    if not isinstance(features, Features):
        features = make_features(features, data, device=model.device or "cpu")
    classifier = classifier or (features if features.classes else None)
    source, other = (data.test, data.train) if reference == "test" else (data.train, data.test)
    if source is None:
        raise ValueError(f"{data.name} has nothing held out: take reference train")
    split = "held out" if reference == "test" else "training data"
    against = f"{data.name}, {split}, {len(source)} samples"

    def say(text: str) -> None:
        if progress and distributed.is_main():
            print(f"   {text}", file=sys.stderr, flush=True)

    say(f"reference: {against}; features: {features.about}")
    real = reference_of(source, features, cache)
    calls = sum(-(-size // batch) * p.evaluations for p, size in zip(plans, sizes, strict=True))
    say(f"computing: {optimize(model, batch=min(batch, max(sizes)), evaluations=calls)}")
    conditional = bool(data.classes and getattr(model.net, "arguments", {}).get("labels"))
    shared: dict[str, Any] = {"weights": weights, "seed": seed}

    def sample_plan(plan: Plan, size: int, **options: Any) -> Gathered:
        label = training_labels(data, size, seed) if conditional else None
        rows = min(batch, size // distributed.world())  # every process has at least one
        options |= {"seed": seed, "batch": rows, "label": label, "progress": progress}
        return draw(model, size, plan, features, **options)

    def compare(gathered: Gathered, facts: dict[str, Any] | None = None) -> Iterator[Figure]:
        floor = facts is None
        few = floor and len(plans) > 1  # those that the table of several plans shows
        origin: dict[str, Any] = {"reference": against, "draw": facts} | shared
        for figure in quality(gathered, real, seed=seed, intervals=not floor, few=few):
            yield replace(figure, features=features.about, **origin)
        if classifier is not None and len(gathered.x):
            for figure in share_figures(class_shares(gathered, classifier), len(gathered.x)):
                yield replace(figure, features=classifier.about, **origin)

    samples = {
        plan.name: sample_plan(plan, size, frames=data.kind == "images" and plan is plans[0])
        for plan, size in zip(plans, sizes, strict=True)
    }
    say("real samples of the other split, and nearest neighbours in the training data")
    floors = dict[int, dict[str, Interval]]()
    for size in dict.fromkeys(sizes):
        values = dict[str, list[float]]()
        generator = torch.Generator().manual_seed(seed)
        for _ in range(floor_sets):
            if other is None or len(other) < size:
                break
            rows = torch.randperm(len(other), generator=generator)[:size]
            for figure in compare(gather_features(source_batches(other, rows), features)):
                if figure.value is not None:
                    values.setdefault(figure.name, []).append(figure.value)
        floors[size] = {title: spread_interval(numbers) for title, numbers in values.items()}
    memory, notes = dict[str, Memory](), list[str]()
    try:
        memories = memorisation([gathered.x for gathered in samples.values()], data, flips=flips)
        memory = dict(zip(samples, memories, strict=True))
    except ValueError as error:
        notes.append(f"memorisation: {error}")
    figures = list[Figure]()
    for plan in plans:
        gathered = samples[plan.name]
        facts, floor = _draw_facts(plan, gathered, conditional) | shared, floors[gathered.n]
        for figure in compare(gathered, facts):
            mean = floor[figure.name].value if figure.name in floor else None
            figures.append(replace(figure, real=mean))
        for figure in memory_figures(memory.get(plan.name), data.kind):
            figures.append(replace(figure, draw=facts, **shared))
    say("loss at each noise level, and likelihood")
    sigmas, losses = loss_curves(model, data, seed=seed)
    likelihoods, reasons = likelihood_figures(model, data, bits, seed)
    for figure in [*loss_figures(sigmas, losses, data.name), *likelihoods]:
        words = ["of the model without a class"] * conditional + [figure.warning]
        figures.append(replace(figure, warning="; ".join(filter(None, words)), **shared))
    points = list[Figure]()
    for plan in frontier if real.parts else ():
        with warnings.catch_warnings():  # with few levels, churn exceeds the largest σ
            warnings.simplefilter("ignore", UserWarning)
            gathered = sample_plan(plan, sizes[0], kept=0)
        facts = _draw_facts(plan, gathered, conditional) | shared
        points.append(next(compare(gathered, facts)))
    sets = {"real": real} | samples
    return Evaluation(
        name=name or data.name,
        model=model,
        data=data,
        weights=weights,
        seed=seed,
        reference=against,
        features=features,
        plans=plans,
        samples=samples,
        figures=tuple(figures),
        floors=floors,
        floor_sets=floor_sets,
        shares={k: class_shares(x, classifier) for k, x in sets.items()} if classifier else {},
        memory=memory,
        sigmas=sigmas,
        losses=losses,
        frontier=tuple(points),
        notes=(*notes, *reasons),
        run=run,
    )


def training_labels(data: Dataset, n: int, seed: int) -> Int[Tensor, "n"]:
    """Return the classes of n random training samples."""
    generator = torch.Generator().manual_seed(seed)
    return read_labels(data.train, torch.randint(len(data.train), (n,), generator=generator))


def _draw_facts(plan: Plan, samples: Gathered, conditional: bool) -> dict[str, Any]:
    """Return how samples were drawn, for their figures."""
    return {
        "plan": plan.name,
        "sampler": plan.sampler,
        "evaluations": plan.evaluations,
        "levels": [plan.sigmas[0].item(), plan.sigmas[-1].item(), len(plan.sigmas)],
        "options": plan.options,
        "start": "uniform noise" if plan.uniform else "the model's prior",
        "classes": "as frequent as in training" if conditional else "",
        "seconds": samples.seconds,
    }


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────────


def evaluate_run(
    directory: str | Path,
    *,
    features: str = "pixels",
    inception: Path | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    frontier: bool = False,
    raw: bool = False,
    device: str = "auto",
    **options: Any,
) -> Evaluation:
    """Judge the model of a run by its own plan; data that have changed are refused.

    Args:
        directory: the run's directory.
        features: a name in `FEATURES`.
        inception: file of the Inception network's weights.
        sampler: a name in `SAMPLERS`; by default the run's own.
        steps: number of levels; see `make_plan`.
        frontier: also measure every sampler at several costs.
        raw: take the last weights in training, not their average.
        device: where the model computes.
        options: n, reference, seed, bits, batch, cache, progress and floor_sets of `evaluate`.
    """
    model, data, experiment, weights = open_run(directory, raw=raw, device=device)
    return evaluate(
        model,
        data,
        plans=[build_plan(model, experiment.sampling, sampler, steps)],
        features=make_features(features, data, weights=inception, device=model.device or "cpu"),
        frontier=[p for s in SAMPLERS for p in frontier_plans(model, s)] if frontier else [],
        flips=experiment.data.flip,
        name=str(directory),
        weights=weights,
        run=Path(directory),
        **options,
    )


def open_run(
    directory: str | Path, *, raw: bool = False, device: str = "auto"
) -> tuple[ScoreModel, Dataset, Experiment, str]:
    """Return a run's model, data and experiment, and which weights the model has, in words.

    Data that have changed since the training are refused. `raw` takes the last weights in training,
    not their average.
    """
    run = Path(directory)
    if not (run / "config.json").exists():
        raise ValueError(
            f"{run} holds no run: there is no config.json in it, which names the training data"
        )
    experiment = config.read(run / "config.json")
    data = load_data(experiment.data.source, **experiment.data.options)
    if raw and not checkpoints(run):
        raise ValueError(f"{run} has no checkpoints, which hold the raw weights")
    path = checkpoints(run)[-1] if raw else run
    model, stored, decay = load(path), read_tensors(path), experiment.training.ema
    kind = f"averaged with decay {decay}" if decay else "raw, as the run keeps no average"
    if raw:
        model.net.load_state_dict(raw_weights(stored))
        kind = "raw"
    if model.prior is None or model.shape != data.train.shape:
        raise ValueError(
            f"{run}: its model is for samples of {model.shape}, and {data.name} has "
            f"{tuple(data.train.shape)}: the data have changed since"
        )
    check_data(run, experiment, data)
    model = model.to(distributed.local_device(choose_device(device)))
    return model, data, experiment, f"{kind}, step {stored.about.get('step')}"


def frontier_plans(
    model: ScoreModel, sampler: str, budgets: Sequence[int] = BUDGETS
) -> Iterator[Plan]:
    """Yield the plans of a sampler whose costs are nearest to the budgets, each plan once."""

    def cost(steps: int) -> int:
        return make_plan(model, sampler, steps).evaluations

    used = set()
    for budget in budgets:
        # the cost grows with the number of steps
        over = bisect_left(range(1, 2 * budget), budget, key=cost) + 1
        steps = min(max(over - 1, 1), over, key=lambda steps: abs(cost(steps) - budget))
        if cost(steps) not in used and budget / 1.5 <= cost(steps) <= 1.5 * budget:
            used.add(cost(steps))
            yield make_plan(model, sampler, steps)
