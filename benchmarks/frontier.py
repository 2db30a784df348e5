"""Quality against evaluations and seconds, of all samplers on one trained model, end to end too.

Samples are held against data by the Fréchet distance: in a classifier's features, or those of
random convolutions; with 95 % intervals by the jackknife, and of all numbers of a sample where
these are few. Seconds are those of drawing the samples, on the model as `optimize` makes it.

The reference is annealed Langevin of 1,000 steps, 10 levels × T = 100, in eager float32: as in the
paper, from σ = 1 to 0.01 with ε = 2e-5, and between the model's own σ with the ε of `suggest`. No
worse than it is what has no larger distance than either in any features; the distances themselves
decide, and not their intervals. Chains start from the prior, which 100 steps at σ = 1 forget. Its
noise is torch's, which is drawn faster than the noise by position that all others have.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scorefield.evaluate import (
    Features,
    Gathered,
    Interval,
    frechet_interval,
    frontier_plans,
    gather_features,
    open_run,
    reference_of,
)
from scorefield.fast.optimize import optimize
from scorefield.model import ScoreModel
from scorefield.noise import geometric
from scorefield.sample import Plan, make_plan, sample
from scorefield.samplers import SAMPLERS, final

from . import overhead
from .measure import apart, ratio, seconds, turns
from .setting import Setting
from .table import Cell, Table
from .trained import MODELS, Subject, compared, described, features_of, place_of, trained

SAMPLES, FEW = 360, 60
"""Of each sampler; only to see whether it runs."""
BUDGETS, QUICK = (4, 6, 8, 10, 20, 40), (6, 10)
"""Evaluations, about; only to see whether it runs."""
LEVELS, STEPS = 10, 100
"""Of the paper's annealed Langevin."""
LANGEVIN, OWN = "annealed Langevin, the paper’s σ", "annealed Langevin, the model’s σ"
OVERHEAD = "overhead"
ENDS = ("digits",)
"""Models that are timed from end to end,"""
TURNS = 3
"""in so many turns, for the slow way takes half a minute."""
COST = ("sampler", "NFE", "seconds", "times faster")
Draw = Callable[[ScoreModel, int, Plan, int], Tensor]
"""Samples of a model, so many, by a plan, from a seed."""
SHORT = 1.0
"""Seconds below which a time is taken again."""


@dataclass(frozen=True, eq=False)
class Judge:
    """The data that samples are held against, in all their features."""

    features: tuple[Features, ...]
    references: tuple[Gathered, ...]

    @classmethod
    def of(cls, subject: Subject, n: int) -> Judge:
        """For n samples."""
        (_, held), features = compared(subject.data), features_of(subject.data, n)
        return cls(features, tuple(reference_of(held, each) for each in features))

    def distances(self, x: Tensor) -> tuple[Interval, ...]:
        """In each of the features."""
        found = []
        for features, reference in zip(self.features, self.references, strict=True):
            samples = gather_features([(0, x)], features, kept=0)
            found.append(frechet_interval(samples, reference.moments))
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Point:
    """A sampler at a cost.

    Attributes:
        name: Of the sampler.
        plan: What it does.
        seconds: For all samples.
        distances: In each of the features.
    """

    name: str
    plan: Plan
    seconds: float
    distances: tuple[Interval, ...]


def run(setting: Setting) -> Iterator[Table]:
    """For each model a table of all samplers and one from end to end; what a sampler adds."""
    runs = {part: part for part in setting.only if (Path(part) / "config.json").exists()}
    parts = {name: name for name in (*MODELS, OVERHEAD)} | runs
    for name in setting.chosen(parts):
        if name == OVERHEAD:
            yield overhead.table(setting)
        else:
            yield from tables(setting, name)


def tables(setting: Setting, name: str) -> Iterator[Table]:
    """Of one model."""
    subject = trained(setting, name)
    n = FEW if setting.quick else SAMPLES
    judge, plain = Judge.of(subject, n), copy.deepcopy(subject.model)
    held = [
        point(plain, judge, n, way, planned, setting.seed, plainly)
        for way, planned in langevin(plain, 2 if setting.quick else STEPS).items()
    ]
    model, found = subject.model, list[Point]()
    choice = optimize(model, batch=n, evaluations=sum(BUDGETS) * len(SAMPLERS))
    for sampler in SAMPLERS:
        for planned in frontier_plans(model, sampler, QUICK if setting.quick else BUDGETS):
            found.append(point(model, judge, n, sampler, planned, setting.seed))
    against, seen = f"{judge.references[0].n} {compared(subject.data)[0]}", judge.features[0].about
    about = f"{n} samples against {against}, {seen}."
    notes = [described(subject, name), about, f"The network: {choice}.", *closing(held, found)]
    yield Table(f"frontier, {name}", columns(judge), rows(held[0], held + found), notes)
    if name in ENDS:
        yield end_to_end(setting, name, (plain, model), judge, held, found)


def langevin(model: ScoreModel, steps: int) -> dict[str, Plan]:
    """The reference, as in the paper and between a model's own levels."""
    known = model.precondition.levels
    sigmas = geometric(1.0, 0.01, LEVELS) if known is None else known
    options = {"steps": steps, "epsilon": 0.2 * sigmas[-1].item() ** 2}
    found = {LANGEVIN: Plan("annealed_langevin", sigmas, options)}
    if known is None:
        own = make_plan(model, "annealed_langevin", steps, levels=LEVELS, denoise=False)
        found[OWN] = own
    return found


def point(
    model: ScoreModel,
    judge: Judge,
    n: int,
    name: str,
    planned: Plan,
    seed: int,
    drawing: Draw | None = None,
) -> Point:
    """Draw, time and judge; what is short is timed again, the median of five."""
    draw = partial(drawing or samples, model, n, planned, seed)
    begun = time.perf_counter()
    x = draw()
    spent = time.perf_counter() - begun
    if spent < SHORT:
        spent = statistics.median(seconds(draw) for _ in range(5))
    return Point(name, planned, spent, judge.distances(x))


def samples(model: ScoreModel, n: int, planned: Plan, seed: int) -> Tensor:
    """All in one batch."""
    with warnings.catch_warnings():  # churn goes beyond the largest σ
        warnings.simplefilter("ignore", UserWarning)
        return sample(model, n, planned, seed=seed, batch=n).cpu()


def plainly(model: ScoreModel, n: int, planned: Plan, seed: int) -> Tensor:
    """The same by torch's noise."""
    assert model.prior is not None  # as runs make it
    generator = torch.Generator(model.prior.mean.device).manual_seed(seed)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    model.eval()
    start = model.prior.sample(n, planned.sigmas[0].item(), noise=noise)
    return final(planned.run(model, start, noise))


# ── What is said of them ─────────────────────────────────────────────────────────────────────────


def columns(judge: Judge) -> dict[str, str]:
    """Of the frontier."""
    more = {f"of {each.about}": ".3f" for each in judge.features[1:]}
    cost = {"sampler": "", "NFE": "d", "seconds": ".3f", "times faster": ".1f"}
    return cost | {"Fréchet": ".3f", "from": ".3f", "to": ".3f"} | more


def rows(base: Point, points: Sequence[Point]) -> list[list[Cell]]:
    """With the ratio of time to the base."""
    return [
        [
            each.name,
            each.plan.evaluations,
            each.seconds,
            base.seconds / each.seconds,
            *each.distances[0],
            *(other.value for other in each.distances[1:]),
        ]
        for each in points
    ]


def no_worse(held: Sequence[Point], points: Sequence[Point]) -> list[Point]:
    """Those whose every distance is at most each reference's, the fastest first."""
    limits = [min(each.value for each in same) for same in _by_features(held)]
    good = [
        each
        for each in points
        if all(d.value <= most for d, most in zip(each.distances, limits, strict=True))
    ]
    return sorted(good, key=lambda each: each.seconds)


def closing(held: Sequence[Point], points: Sequence[Point]) -> list[str]:
    """The last words, of the fastest that is no worse."""
    good, base = no_worse(held, points), held[0]
    steps = f"{base.plan.evaluations:,}-step annealed Langevin"
    if not good:
        return [f"no sampler has as small a Fréchet distance as {steps}"]
    best = good[0]
    return [
        f"The fastest that is no worse: {_called(best)}.",
        f"same Fréchet distance as {steps} at {base.seconds / best.seconds:.0f}× less time",
    ]


def _by_features(points: Sequence[Point]) -> Iterator[tuple[Interval, ...]]:
    return zip(*(each.distances for each in points), strict=True)


def _called(each: Point) -> str:
    return f"{each.name}, {each.plan.evaluations} evaluations"


# ── From end to end ──────────────────────────────────────────────────────────────────────────────


def end_to_end(
    setting: Setting,
    name: str,
    models: tuple[ScoreModel, ScoreModel],
    judge: Judge,
    held: Sequence[Point],
    found: Sequence[Point],
) -> Table:
    """All after the model is loaded, with `optimize` itself: in turns, and once in a new process.

    Args:
        setting: as told.
        name: of the model.
        models: the plain one, and one to be optimized.
        judge: of the distances, as many samples as it was made for.
        held: the references.
        found: of which the fastest that is no worse is taken, and DPM-Solver++ at ten steps.
    """
    plain, model = models
    n, seed = FEW if setting.quick else SAMPLES, setting.seed
    ten = [p for p in found if p.name == "dpm_solver" and p.plan.evaluations == 10]
    chosen = {_called(each): each for each in (*ten, *no_worse(held, found)[:1])}

    # how samples are drawn, on which model, and the plan
    ways: dict[str, tuple[Draw, ScoreModel, Plan]] = {
        f"{LANGEVIN}, eager": (plainly, plain, held[0].plan)
    }
    for called, each in chosen.items():
        ways[f"{called}, eager"] = samples, plain, each.plan
        ways[f"{called}, optimized"] = optimized, model, each.plan
    draws = {way: partial(draw, on, n, what, seed) for way, (draw, on, what) in ways.items()}
    spent = turns(draws, repeats=1 if setting.quick else TURNS)
    base, *_ = spent.values()
    made: list[list[Cell]] = []
    for way, (draw, _, planned) in ways.items():
        distances = judge.distances(draws[way]()) if made else held[0].distances
        values = (*distances[0], *(other.value for other in distances[1:]))
        new = apart(first, place_of(setting, name), draw, n, planned, setting)
        times = 1e3 * new, 1e3 * statistics.median(spent[way]), ratio(base, spent[way])
        made.append([way, *times, *values])
    heads = {"way": "", "first, ms": ".1f", "ms": ".1f", "ratio": ".1f"}
    kept = {head: form for head, form in columns(judge).items() if head not in COST}
    note = "First: the first call of a new process that has loaded the model; the others once warm."
    return Table(f"end to end, {name}, {n} samples", heads | kept, made, [note])


def optimized(model: ScoreModel, n: int, planned: Plan, seed: int) -> Tensor:
    """The samples with what has to be done before."""
    optimize(model, batch=n, evaluations=planned.evaluations)
    return samples(model, n, planned, seed)


def first(place: Path, draw: Draw, n: int, planned: Plan, setting: Setting) -> float:
    """Seconds of the first call in this process, by the model of a run."""
    torch.set_num_threads(setting.threads)
    model = open_run(place, device=setting.device)[0]
    return seconds(partial(draw, model, n, planned, setting.seed))
