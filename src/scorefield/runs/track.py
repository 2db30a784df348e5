"""Progress of a run's training."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..show.track import track
from ..train import Update
from .run import Run

LOSS_DECAY = 0.98
"""Decay per step of the mean loss that is shown."""


def track_training(run: Run) -> Iterator[Update]:
    """Train a run to its end, and show its progress and a running mean of its loss."""
    mean = math.nan

    def describe(update: Update) -> str:
        nonlocal mean
        if not update.skipped:
            before = update.loss if math.isnan(mean) else mean
            mean = LOSS_DECAY * before + (1 - LOSS_DECAY) * update.loss
        return f"loss {mean:.4g}"

    steps = run.experiment.training.steps
    return track(
        run, steps, "training", done=run.step, position=lambda u: u.step, describe=describe
    )
