"""Results of a run on the way: the held-out loss and grids of samples."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from .. import distributed
from ..data import all_samples
from ..model import ScoreModel
from ..sample import sample
from ..show import images
from ..train import derive_seed, row_noise
from .build import Parts, build_plan
from .config import Experiment
from .state import Progress

HELDOUT_SAMPLES = 1024
"""Largest number of held-out samples whose loss is computed."""
HELDOUT_BATCH = 256
GRID_SAMPLES = 36


@torch.no_grad()
def heldout_losses(experiment: Experiment, parts: Parts, model: ScoreModel) -> Tensor:
    """Return the loss of each held-out sample; samples and noise are always the same."""
    assert parts.data.test is not None
    x = all_samples(parts.data.test, HELDOUT_SAMPLES).to(parts.device)
    generator = torch.Generator(x.device).manual_seed(derive_seed(experiment.seed, 3))
    model.eval()
    losses = x.new_zeros(len(x))
    pairs = zip(torch.split(x, HELDOUT_BATCH), torch.split(losses, HELDOUT_BATCH), strict=True)
    for part, loss in pairs:
        rows = distributed.own_rows(len(part))
        if len(part[rows]):
            loss[rows] = parts.loss(model, part[rows], noise=row_noise(generator, len(part)))
    return distributed.all_sum(losses)


def write_grid(
    directory: Path, experiment: Experiment, model: ScoreModel, progress: Progress
) -> None:
    """Write a grid of samples of a model of images."""
    plan = build_plan(model, experiment.sampling)
    x = sample(model, GRID_SAMPLES, plan)
    about = asdict(progress) | {"sampler": plan.sampler, "evaluations": plan.evaluations}
    if distributed.is_main():
        images.write(directory / f"samples/{progress.step:08d}.png", x, about)
