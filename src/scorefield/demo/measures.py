"""How good samples are: each figure with the interval in which other sets of its size would lie.

Fréchet distance   of pixels, ± 1.96 deviations by the jackknife: the set without one of its
                   20 parts at a time (Tukey 1958), √(19/20·Σ(θᵢ − θ̄)²)
precision, coverage   shares, in Wilson's interval
nearest ratio      a median, between the order statistics n/2 ± 0.98·√n
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data import Dataset, Source, all_samples
from ..evaluate import fit
from ..evaluate.figure import Interval, around, jackknife, median, share, spread
from ..metrics import density_coverage, frechet, neighbour_ratio, precision_recall
from ..model import ScoreModel
from ..oracles import Empirical
from ..score import Score

K = 5
"""The neighbour that gives the radius, of precision and of coverage."""
PARTS = 20
"""Of the jackknife."""
DRAWS = 20
"""Sets of real digits from which the floor is known."""


@dataclass(frozen=True)
class Measures:
    """What is said of one set of samples."""

    n: int
    frechet: Interval
    precision: Interval
    coverage: Interval
    ratio: Interval
    """Of the distance to the nearest training digit, to that of held-out digits."""
    shares: tuple[float, ...]
    """Of the classes, by the classifier."""

    @property
    def rarest(self) -> float:
        """The share of the least frequent class."""
        return min(self.shares)

    @property
    def commonest(self) -> float:
        """The share of the most frequent class."""
        return max(self.shares)


@dataclass(frozen=True, eq=False)
class Judge:
    """What samples are held against: the data, and a classifier that learned from its labels."""

    train: Float[Tensor, "n *shape"]
    test: Float[Tensor, "m *shape"]
    classify: Callable[[Tensor], Int[Tensor, "..."]]
    classes: int
    accuracy: float
    """Of the classifier, on the held-out digits."""

    @classmethod
    def of(cls, data: Dataset) -> Judge:
        """The judge of a data set that has classes and held-out samples."""
        from sklearn.svm import SVC

        (train, known), (test, true) = (_labelled(part) for part in (data.train, data.test))
        # γ = 0.001 for pixels of 0 … 16, as scikit-learn's own example has it for these digits
        machine = SVC(gamma=0.001 * data.train.levels**2).fit(_flat(train), known.numpy())

        def classify(x: Tensor) -> Tensor:
            return torch.from_numpy(machine.predict(_flat(x)).astype(np.int64))

        accuracy = (classify(test) == true).double().mean().item()
        return cls(train, test, classify, data.classes, accuracy)

    def measure(self, x: Float[Tensor, "n *shape"]) -> Measures:
        """Of samples of a model, against the held-out digits."""
        distance, precision, coverage = self._compared(x)
        error = _jackknife(x, lambda part: frechet(part, self.test))
        return Measures(
            len(x),
            around(distance, error),
            share(precision, len(x)),
            share(coverage, len(self.test)),
            self._ratio(x),
            self.shares(x),
        )

    def floor(self, n: int, seed: int) -> Measures:
        """Of real digits: means over random sets of n training digits, and where those lie.

        The shares are those of the rarest class up to the commonest, whichever they are. Training
        digits are their own nearest: the ratio is that of the held-out ones, 1 by definition.
        """
        generator = torch.Generator().manual_seed(seed)
        rows = [torch.randperm(len(self.train), generator=generator)[:n] for _ in range(DRAWS)]
        found = [self._compared(self.train[chosen]) for chosen in rows]
        shares = [sorted(self.shares(self.train[chosen])) for chosen in rows]
        distance, precision, coverage = map(spread, zip(*found, strict=True))
        ranked = tuple(float(np.mean(rank)) for rank in zip(*shares, strict=True))
        return Measures(n, distance, precision, coverage, self._ratio(self.test), ranked)

    def shares(self, x: Float[Tensor, "n *shape"]) -> tuple[float, ...]:
        """Of each class, as the classifier sees it."""
        counts = torch.bincount(self.classify(x), minlength=self.classes)
        return tuple((counts.double() / len(x)).tolist())

    def _compared(self, x: Tensor) -> tuple[float, float, float]:
        """Fréchet distance, precision and coverage."""
        return (
            frechet(x, self.test),
            precision_recall(x, self.test, k=K).precision,
            density_coverage(x, self.test, k=K).coverage,
        )

    def _ratio(self, x: Tensor) -> Interval:
        found = neighbour_ratio(x, self.train, self.test, worst=len(x))
        unit = found.distances.median().item() / found.ratio
        return Interval(*(value / unit for value in median(found.distances)))


def losses(
    model: ScoreModel, judge: Judge, sigmas: Float[Tensor, "levels"], sigma_data: float, seed: int
) -> Mapping[str, Float[Tensor, "levels n"]]:
    """The denoising loss per pixel and digit at each σ, of the model and beside it.

    Weighted as in training, by (σ² + σ_d²)/(σσ_d)²: who knows mean and deviation of all pixels only
    has about 1. All curves see the same noise.
    """
    assert model.prior is not None
    seen = judge.train[:: len(judge.train) // len(judge.test)][: len(judge.test)]
    curves: dict[str, tuple[Score, Tensor]] = {
        "the model, held-out digits": (model, judge.test),
        "the model, digits it was trained on": (model, seen),
        "Gaussian of the training digits, held-out": (model.prior.score, judge.test),
        "training digits by heart, held-out": (Empirical(judge.train), judge.test),
    }
    return fit.losses(curves, sigmas, sigma_data, seed)


def _labelled(source: Source | None) -> tuple[Tensor, Tensor]:
    labels = None if source is None else source.take(torch.arange(len(source)))[1]
    if source is None or labels is None:
        raise ValueError("data has no held-out samples or no classes: judge by others")
    return all_samples(source), labels


def _flat(x: Tensor) -> np.ndarray:
    return x.flatten(1).numpy()


def _jackknife(x: Tensor, statistic: Callable[[Tensor], float]) -> float:
    """The standard error, from the set without each of its parts."""
    part = torch.arange(len(x)) % PARTS
    return jackknife([statistic(x[part != i]) for i in range(PARTS)])
