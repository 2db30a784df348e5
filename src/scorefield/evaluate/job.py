"""One evaluation, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Source, all_samples
from ..sample import Plan
from ..score import Score
from .features import Features
from .figure import Draw, Figure, Interval, mean
from .fit import levels, looked_at, losses, nats
from .gather import Gathered, Reference, batches_of, gather, reference_of, together
from .memory import Memory, memory
from .quality import quality
from .subject import Subject, drawn

Split = Literal["test", "train"]
HELDOUT, TRAINED = "the model, held-out data", "the model, data it was trained on"
"""Names of the curves of the loss."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is measured.

    Attributes:
        subject: The model with its data.
        features: In which samples are compared.
        split: Of the data, that they are held against.
        n: Samples.
        plan: How they are drawn.
        seed: Of all that is random.
        batch: Samples at a time.
    """

    subject: Subject
    features: Features
    split: Split
    n: int
    plan: Plan
    seed: int
    batch: int

    @property
    def against(self) -> str:
        """The reference in words."""
        return (
            f"{self.subject.data.name}, {'held out' if self.split == 'test' else 'training data'}"
        )

    @property
    def draw(self) -> Draw:
        """How the samples are made."""
        sigmas, planned = self.plan.sigmas, self.plan
        ends = sigmas[0].item(), sigmas[-1].item(), len(sigmas)
        weights, cost = self.subject.weights, planned.evaluations
        classes = "as frequent as in training" if self.subject.experiment.data.labels else ""
        return Draw(planned.sampler, cost, self.seed, weights, planned.options, ends, classes)

    def _source(self, split: Split) -> Source | None:
        data = self.subject.data
        return data.test if split == "test" else data.train

    def reference(self, cache: Path | None) -> Reference:
        """What samples are held against."""
        source = self._source(self.split)
        if source is None:
            name = self.subject.data.name
            raise ValueError(f"{name} has nothing held out: take --reference train")
        return reference_of(source, self.against, self.features, cache)

    def samples(self) -> Gathered:
        """Those of the model."""
        parts = drawn(
            self.subject.model,
            self.n,
            self.plan,
            seed=self.seed,
            batch=self.batch,
            classes=self.subject.classes(self.n, self.seed),
        )
        return together(gather(parts, self.features))

    def _figure(self, **given: Any) -> Figure:
        return Figure(weights=self.subject.weights, seed=self.seed, **given)

    # ── Samples ──────────────────────────────────────────────────────────────────────────────────

    def quality(self, found: Gathered, reference: Reference) -> Iterator[Figure]:
        """Figures of samples beside the reference, and beside them those of real ones."""
        other = self._source("train" if self.split == "test" else "test")
        real: dict[str, Interval | None] = {}
        if other is not None and len(other) >= self.n:
            same = gather(batches_of(other, self.n), self.features)
            real = {each.name: each.interval for each in quality(same, reference, self.seed)}
        for each in quality(found, reference, self.seed):
            floor = real.get(each.name)
            yield self._figure(
                name=each.name,
                **_ends(each.interval),
                method=each.method,
                features=self.features.about,
                samples=each.samples,
                reference=reference.about,
                draw=self.draw,
                real=None if floor is None else floor.value,
                warning=each.warning,
            )

    def memory(self, x: Tensor) -> tuple[Memory | None, list[str]]:
        """How near samples are to training data; a note if that cannot be told."""
        try:
            return memory(x, self.subject.data, flips=self.subject.experiment.data.flip), []
        except ValueError as error:
            return None, [f"memorisation: {error}"]

    def copies(self, found: Memory) -> Iterator[Figure]:
        """The figures of it, with those of held-out data beside them."""
        rows = (
            ("distance to training data, held-out = 1", found.ratio, 1.0, "order statistics"),
            ("near copies", found.near, found.near_heldout.value, "Wilson"),
            ("exact copies", found.exact, found.exact_heldout.value, "Wilson"),
        )
        mirrored = " and their mirror images" if found.flips else ""
        for name, interval, real, method in rows:
            yield self._figure(
                name=name,
                **_ends(interval),
                method=method,
                features="pixels" if self.subject.data.kind == "images" else "coordinates",
                samples=found.n,
                reference=f"{found.trained} training samples{mirrored}, beside {found.heldout} "
                "held out",
                draw=self.draw,
                real=real,
            )

    # ── The model itself ─────────────────────────────────────────────────────────────────────────

    @property
    def _unlabelled(self) -> str:
        labels = self.subject.experiment.data.labels
        return "of the model when it is not told the class" if labels else ""

    def losses(self) -> tuple[Tensor, Mapping[str, Float[Tensor, "levels n"]]]:
        """Noise levels and the loss at each, of held-out data and of as many from the training."""
        subject, data = self.subject, self.subject.data
        assert subject.model.prior is not None
        limit = looked_at(data.train.shape.numel())
        test = None if data.test is None else all_samples(data.test, limit)
        seen = all_samples(data.train, limit if test is None else len(test))
        there = {TRAINED: seen} if test is None else {HELDOUT: test, TRAINED: seen}
        model, device = subject.model.eval(), subject.device
        curves: dict[str, tuple[Score, Tensor]] = {
            name: (model, x.to(device)) for name, x in there.items()
        }
        if test is not None:
            prior = subject.model.prior
            curves |= {"Gaussian of the data, held-out data": (prior.score, test.to(device))}
        sigmas = levels(subject.model).cpu()
        return sigmas, losses(curves, sigmas, subject.sigma_data, self.seed)

    def fit(self, sigmas: Tensor, curves: Mapping[str, Tensor]) -> Iterator[Figure]:
        """The held-out loss at each σ."""
        for sigma, row in zip(sigmas.tolist(), curves.get(HELDOUT, ()), strict=False):
            yield self._figure(
                name=f"denoising loss at σ = {sigma:.3g}",
                **_ends(mean(row)),
                method="± 1.96 of its standard error",
                features="",
                samples=len(row),
                reference=f"{self.subject.data.name}, held out",
                warning=self._unlabelled,
            )

    def likelihoods(self, n: int) -> tuple[list[Figure], list[str]]:
        """Bits per dimension of 8-bit images, else nats; a note if there are none."""
        subject, test = self.subject, self.subject.data.test
        if n < 2 or test is None:
            return [], []
        if subject.model.precondition.levels is not None:
            return [], ["likelihood: the model knows a few noise levels only, the ODE needs all"]
        try:
            found, bits = nats(subject.model, test, n, self.seed)
        except ValueError as error:
            return [], [f"likelihood: {error}"]
        few = "" if len(found) >= 30 else f"{len(found)} samples tell a mean roughly"
        make = partial(
            self._figure,
            method="± 1.96 of its standard error",
            features="",
            samples=len(found),
            warning="; ".join(each for each in (self._unlabelled, few) if each),
        )
        where = f"{subject.data.name}, held out, with noise σ = {subject.model.sigma_min:.3g}"
        if test.take(torch.zeros(1, dtype=torch.int64))[0].dtype != torch.uint8:
            name = "negative log-likelihood, nats"
            return [make(name=name, **_ends(mean(found)), reference=where)], []
        where += f", dequantised from {test.levels} levels"
        return [make(name="bits per dimension", **_ends(mean(bits)), reference=where)], []


def _ends(interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {"value": None, "low": None, "high": None}
    return {"value": interval.value, "low": interval.low, "high": interval.high}
