"""`evaluate`: from a model, its data and plans to an `Evaluation`."""

import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from .. import distributed
from .._ops import check_count
from ..data import AUGMENTATION, Dataset, Source
from ..fast.optimize import optimize
from ..model import ScoreModel
from ..noise import check_seed
from ..sample import Plan, make_plan, record_evaluations
from ..show.progress import stage
from ..values import Dequantisation
from .evaluation import Evaluation
from .features import Features, make_features, read_labels
from .figure import Figure, Interval, spread_interval
from .fit import likelihood_figures, loss_curves, loss_figures
from .gather import Gathered, gather_features, gather_samples, reference_of, source_batches
from .memory import Memory, memorisation
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
    dequantisation: Dequantisation = "uniform",
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
    none; 8-bit ones are dequantised with a "uniform" distribution, or a truncated "normal" one, as
    by `data.dequantise`. Of the plans of `frontier`, only the Fréchet distance and the seconds are
    measured.

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
    calls = -(-n // batch) * sum(plan.evaluations for plan in plans)
    others = [other for plan in plans for other in plan.others]
    # without TF32 from here on
    choice = optimize(model, *others, batch=min(batch, n), evaluations=calls)
    with stage(f"   reference: {against}; features: {features.about}", shown=progress):
        real = reference_of(source, features, cache)
    if progress and distributed.is_main():
        print(f"   computing: {choice}", file=sys.stderr, flush=True)
    judge = Judge(
        model=model, data=data, features=features, classifier=classifier, real=real,
        reference=against, weights=weights, n=n, seed=seed, batch=batch, progress=progress,
    )  # fmt: skip
    samples, notes = {plan.name: judge.sample(plan) for plan in plans}, list[str]()
    floor, memory = judge.compare_real(samples, other, floor_sets, flips, notes)
    figures = [f for p in plans for f in judge.judge_samples(p, samples[p.name], floor, memory)]
    sigmas, losses, fit = judge.measure_fit(plans, bits, dequantisation, notes)
    points = [judge.measure_cost(plan, floor) for plan in (frontier if real.parts else ())]
    sets = {"real": real} | samples
    return Evaluation(
        model=model, data=data, weights=weights, seed=seed, reference=against, features=features,
        plans=plans, real=real, samples=samples, figures=(*figures, *fit), floor=floor,
        floor_sets=floor_sets,
        shares={k: class_shares(x, classifier) for k, x in sets.items()} if classifier else {},
        memory=memory, sigmas=sigmas, losses=losses, frontier=tuple(points), notes=tuple(notes),
        run=run,
    )  # fmt: skip


def _check_counts(plans: Sequence[Plan], seed: int, n: int, floor_sets: int, bits: int) -> None:
    check_seed(seed)
    check_count(max(2, distributed.world()), n=n)
    check_count(floor_sets=floor_sets)
    check_count(0, bits=bits)
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        raise ValueError(f"plans are {', '.join(names)}: give each its own title")


@dataclass(frozen=True, eq=False)
class Judge:
    """The measurements of an evaluation, with their common settings; see `evaluate`."""

    model: ScoreModel
    data: Dataset
    features: Features
    classifier: Features | None
    real: Gathered  # the reference
    reference: str  # its description
    weights: str
    n: int
    seed: int
    batch: int
    progress: bool

    @cached_property
    def labels(self) -> Int[Tensor, "n"] | None:
        """Classes of the samples, as frequent as in training, if model and data have classes."""
        if not (self.data.classes and self.model.classes):
            return None
        return training_labels(self.data, self.n, self.seed)

    @property
    def caveats(self) -> list[str]:
        """A note on conditions of the model that are left out."""
        absent = [name for name in self.model.condition_shapes if name != AUGMENTATION]
        return [f"of the model without a value of {', '.join(absent)}"] * bool(absent)

    def sample(self, plan: Plan) -> Gathered:
        """Return n samples of the model."""
        batch = min(self.batch, self.n // distributed.world())  # a sample at least for each process
        return gather_samples(
            self.model, self.n, plan, self.features, seed=self.seed, batch=batch,
            label=self.labels, bar=self.progress,
        )  # fmt: skip

    def compare(self, samples: Gathered, *, intervals: bool = True) -> Iterator[Figure]:
        """Yield the figures of quality of samples."""
        return quality(
            samples, self.real, classifier=self.classifier, table=self.data.table, seed=self.seed,
            intervals=intervals, device=self.model.device or "cpu",
        )  # fmt: skip

    def compare_real(
        self,
        samples: Mapping[str, Gathered],
        other: Source | None,
        sets: int,
        flips: bool,
        notes: list[str],
    ) -> tuple[dict[str, Interval], dict[str, Memory]]:
        """Return the figures of real samples of the `other` split, and each plan's memorisation.

        Note why either cannot be measured.
        """
        title = "   real samples of the other split, and nearest neighbours in the training data"
        with stage(title, shown=self.progress):
            floor = dict[str, Interval]()
            if other and len(other) < self.n:
                few = f"there are {len(other)}, fewer than n={self.n}"
                notes.append(f"figures of real samples: {few}: give n={len(other)}")
            elif other:
                floor = self._measure_floor(other, sets)
            own, device = [gathered.x for gathered in samples.values()], self.model.device or "cpu"
            try:
                memories = memorisation(own, self.data, flips=flips, device=device)
            except ValueError as error:
                notes.append(f"memorisation: {error}")
                return floor, {}
        return floor, dict(zip(samples, memories, strict=True))

    def _measure_floor(self, source: Source, sets: int) -> dict[str, Interval]:
        """Return each figure of quality for random sets of n real samples."""
        values, generator = defaultdict[str, list[float]](list), torch.Generator()
        generator.manual_seed(self.seed)
        for _ in range(sets):
            rows = torch.randperm(len(source), generator=generator)[: self.n]
            some = gather_features(source_batches(source, rows), self.features)
            for figure in self.compare(some, intervals=False):
                if not math.isnan(figure.value):
                    values[figure.name].append(figure.value)
        return {name: spread_interval(numbers) for name, numbers in values.items()}

    def judge_samples(
        self,
        plan: Plan,
        samples: Gathered,
        floor: Mapping[str, Interval],
        memory: Mapping[str, Memory],
    ) -> list[Figure]:
        """Return all figures of a plan's samples."""
        with stage(f"   {plan.name}: figures and their intervals", shown=self.progress):
            figures = [*self.compare(samples), *(memory[plan.name].figures if memory else ())]
        return [self._describe(figure, plan, samples, floor) for figure in figures]

    def measure_cost(self, plan: Plan, floor: Mapping[str, Interval]) -> Figure:
        """Return the Fréchet distance of a plan's samples, with the seconds that they took."""
        with warnings.catch_warnings():  # with few levels, churn exceeds the largest σ
            warnings.simplefilter("ignore", UserWarning)
            samples = self.sample(plan)
        with stage(f"   {plan.name}: Fréchet distance and its interval", shown=self.progress):
            distance = next(quality(samples, self.real))
        return self._describe(distance, plan, samples, floor)

    def _describe(
        self, figure: Figure, plan: Plan, samples: Gathered, floor: Mapping[str, Interval]
    ) -> Figure:
        """Return a figure of samples with its plan, its caveats and the value of real samples."""
        about = {
            "name": plan.name,
            "sampler": plan.sampler,
            **record_evaluations(samples.evaluations),
            "levels": [plan.sigmas[0].item(), plan.sigmas[-1].item(), len(plan.sigmas)],
            "options": {
                name: getattr(value, "__name__", repr(value)) if callable(value) else value
                for name, value in plan.options.items()
            },
            "start": "uniform noise" if plan.uniform else "the model's prior",
            "classes": "as frequent as in training" * (self.labels is not None),
            "seconds": samples.seconds,
        }
        return replace(
            figure,
            plan=about,
            real=floor[figure.name].value if figure.name in floor else figure.real,
            features=figure.features or self.features.about,
            reference=figure.reference or self.reference,
            weights=self.weights,
            seed=self.seed,
            warning="; ".join(filter(None, [*self.caveats, figure.warning])),
        )

    def measure_fit(
        self, plans: Sequence[Plan], bits: int, dequantisation: Dequantisation, notes: list[str]
    ) -> tuple[Tensor, dict[str, Tensor], list[Figure]]:
        """Return noise levels, losses and the figures of both, and note why a figure is missing."""
        if all(plan.method.jumps for plan in plans):
            notes.append("loss and likelihood: a model that is tuned to consistency is not a score")
            return torch.empty(0), {}, []
        with stage("   loss at each noise level, and likelihood", shown=self.progress):
            sigmas, losses = loss_curves(self.model, self.data, seed=self.seed)
            figures = [*loss_figures(sigmas, losses, self.data.name)]
            try:
                own = likelihood_figures(self.model, self.data, bits, self.seed, dequantisation)
                figures += own
            except ValueError as error:
                notes.append(f"likelihood: {error}")
        caveats = ["of the model without a class"] * (self.labels is not None) + self.caveats
        for i, figure in enumerate(figures):
            warning = "; ".join(filter(None, [*caveats, figure.warning]))
            figures[i] = replace(figure, weights=self.weights, seed=self.seed, warning=warning)
        return sigmas, dict(losses), figures


def training_labels(data: Dataset, n: int, seed: int) -> Int[Tensor, "n"]:
    """Return the classes of n random training samples."""
    generator = torch.Generator().manual_seed(seed)
    return read_labels(data.train, torch.randint(len(data.train), (n,), generator=generator))
