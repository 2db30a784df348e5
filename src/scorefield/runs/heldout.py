"""The loss of held-out samples, and the conditions of samples that a model learns."""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from .. import distributed
from .._ops import RowCondition
from ..data import Source, all_samples, choose_rows, condition_shapes
from ..model import ScoreModel
from ..noise import seeded
from ..train import derive_seed
from .build import Parts
from .config import Experiment

HELDOUT_SAMPLES = 1024
"""Largest number of held-out samples whose loss is computed."""
HELDOUT_BATCH = 256
MIN_HELDOUT = 20
"""Fewest held-out samples that show how far new data usually are from the training data."""


@torch.no_grad()
def heldout_losses(experiment: Experiment, parts: Parts, model: ScoreModel) -> Tensor:
    """Return the loss of each held-out sample; samples and noise are always the same."""
    assert parts.data.test is not None
    x = all_samples(parts.data.test, HELDOUT_SAMPLES).to(parts.device)
    chosen = choose_rows(parts.data.test, HELDOUT_SAMPLES)
    model.eval()
    losses, own = x.new_zeros(len(x)), distributed.own_rows(len(x))
    for first in range(own.start, own.stop, HELDOUT_BATCH):
        rows = slice(first, min(first + HELDOUT_BATCH, own.stop))
        noise = seeded(derive_seed(experiment.seed, 3), first=first)
        condition = take_condition(experiment, parts.data.test, chosen[rows])
        score = model if condition is None else model.given(condition)
        losses[rows] = parts.loss(score, x[rows], noise=noise)
    return distributed.all_sum(losses)


def select_condition(condition: RowCondition, labels: bool) -> RowCondition:
    """Return the condition that a model learns, with the labels only if it learns them."""
    if isinstance(condition, Mapping):
        return {name: value for name, value in condition.items() if labels or name != "label"}
    return condition if labels else None


def take_condition(experiment: Experiment, source: Source, rows: Int[Tensor, "n"]) -> RowCondition:
    """Return the classes and conditions of some rows that the model learns, if there are any."""
    labels = experiment.data.labels
    if not (labels or condition_shapes(source)):
        return None  # without reading the samples
    return select_condition(source.take(rows)[1], labels)
