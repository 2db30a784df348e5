"""Guidance by the gradient of a classifier, and the settings of every kind of guidance.

    s(x, σ) + w·∇ₓ log p(y | x, σ)                                   (Dhariwal & Nichol 2021, §4)

With exact scores this is the score of q_σ(x)·p(y | x, σ)^w; so is `guide` with those of the class
and of all classes, because log p(y | x, σ) = log q_σ(x | y) − log q_σ(x) + a constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._ops import Sigma
from ..score import EVERY_SIGMA, Score, SigmaRange, from_energy, keep_shape_and_device, weight_at

Classifier: TypeAlias = Callable[[Tensor, Sigma], Float[Tensor, "batch classes"]]
"""Logits of the classes of noisy samples: log p(y | x, σ) up to a constant."""


@dataclass(frozen=True)
class Guidance:
    """Strength of a condition, from which σ to which, and its source; see `guide`."""

    weight: float
    """Strength w; 1 is the class's own score; with a classifier, 0 is no guidance."""
    interval: SigmaRange = EVERY_SIGMA
    """Smallest and largest σ of this strength, which is 1 outside."""
    weak: Score | None = None
    """A weaker model, smaller or trained less, to guide away from, in place of no condition."""
    classifier: Classifier | None = None
    """Logits of the classes, to guide by their gradient; see `guide_by_classifier`."""

    def __post_init__(self) -> None:
        if self.weak is not None and self.classifier is not None:
            raise ValueError("guidance has a weak model and a classifier: give one of them")
        weight_at(self.weight, self.interval)
        if self.weight == 1 and (self.weak is not None or self.interval != EVERY_SIGMA):
            raise ValueError(
                "guidance of weight 1 has no interval and no weak model: give a larger one, as 2"
            )


def guide_by_classifier(
    score: Score,
    classifier: Classifier,
    label: int | Int[Tensor, "batch"],
    weight: float = 1.0,
    *,
    interval: SigmaRange = EVERY_SIGMA,
) -> Score:
    """Return s + w·∇ₓ log p(y | x, σ), where y is the label.

    `classifier(x, σ)` returns logits, a row of classes for each sample, and sees noise of σ. With
    the score of all classes, w = 1 is that of the class. `interval` is that of `guide`.
    """
    weigh = weight_at(weight, interval)

    def surprise(x: Tensor, sigma: Sigma) -> Tensor:
        logits = classifier(x, sigma)
        if logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(
                f"classifier returned shape {tuple(logits.shape)} for a batch of {len(x)}: return "
                "logits, a row of classes for each sample"
            )
        index = torch.zeros_like(logits[:, 0], dtype=torch.long) + label
        count = logits.shape[1]
        if index.device.type == "cpu" and not ((index >= 0) & (index < count)).all():
            raise ValueError(f"label={label}: the classifier's classes are 0 to {count - 1}")
        return -logits.log_softmax(1).gather(1, index[:, None])[:, 0]

    def guidance(x: Tensor, sigma: Sigma) -> Tensor:
        return score(x, sigma) + weigh(x, sigma) * from_energy(surprise)(x, sigma)

    return keep_shape_and_device(score, guidance)
