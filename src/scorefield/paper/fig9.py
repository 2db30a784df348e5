"""Figures 9 and 10: samples next to the training images that are nearest to them.

    rows: a sample, then its neighbours by ‖f(x) − f(y)‖₂, the nearest first               (C.2)

In Figure 9 f(x) are pixels, in Figure 10 the features of an Inception v3 network.

The model has not memorised its data: its samples are as far from training images as new images are.

Setting   the paper's, CelebA and CIFAR-10, as in `models`, which says what is the code's.
Ours      the figure in numbers: the median distance of samples to their nearest training image over
          that of held-out images, 1 for a model of the data's distribution, far below 1 for copies.
          If training mirrors images, a mirrored image counts as a training image.
PASS      the ratio is from 0.9 to 1.25.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ..evaluate.features import Features
from ..metrics import nearest, neighbour_ratio
from ..show import images
from .finding import Finding, Setting, side_by_side
from .models import COMPARED_SAMPLES, paper_models, scaled_setting

SMALLEST_RATIO = 0.9
LARGEST_RATIO = 1.25
STATEMENT = (
    f"samples are {SMALLEST_RATIO} to {LARGEST_RATIO} × as far from their nearest training image "
    "as held-out images"
)


def run(setting: Setting, data: tuple[str, ...], *, features: bool = False) -> Finding:
    """Compare distances to training images, of pixels or in Figure 10 of features."""
    n = setting.samples(COMPARED_SAMPLES[setting.scale])
    sheets, ratios = list[Image.Image](), dict[str, float]()
    for model in paper_models(setting, data):
        x, train, heldout = model.samples(n).x, model.training_images(), model.heldout_images()
        if model.experiment.data.flip:
            train = torch.cat([train, train.flip(-1)])
        sets = [x, train, heldout]
        if features:
            sets = [extract_all(model.features, part)[0] for part in sets]
        ratios[f"{model.data}: ratio of distances"] = neighbour_ratio(*sets)
        rows = nearest(sets[0][:10], sets[1], min(9, len(train))).indices
        sheets.append(_neighbour_rows(x[:10], train[rows]))
    small = ["features of a classifier of the digits, not of an Inception network"] * features
    passed = all(SMALLEST_RATIO <= ratio <= LARGEST_RATIO for ratio in ratios.values())
    scaled = scaled_setting(setting, f"{n} samples", *small)
    return Finding(STATEMENT, ratios, passed, side_by_side(sheets), scaled)


def extract_all(features: Features, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of many images, and the probabilities of their classes."""
    parts = [features.extract(part) for part in torch.split(x, 250)]
    values, probabilities = zip(*parts, strict=True)
    return torch.cat(values), torch.cat([p for p in probabilities if p is not None])


def _neighbour_rows(x: Tensor, neighbours: Tensor) -> Image.Image:
    """Show each sample, an empty place and its neighbours, a row each."""
    rows = torch.cat([x[:, None], torch.ones_like(x[:, None]), neighbours], 1)
    return images.grid(rows.flatten(0, 1), rows.shape[1])
