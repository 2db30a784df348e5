"""Figure 9: samples beside the training images that are nearest to them.

    rows: a sample, then its neighbours by ‖x − y‖₂, the nearest first                      (C.2)

The model has not learned its data by heart: its samples are as far from training images as new
images are.

Setting   the paper's, CelebA and CIFAR-10, as `models` has it.
Ours      how near: the median distance of samples to their nearest training image over that of
          held-out images, 1 for a model of the data's law, far below 1 for copies.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..data import everything
from ..metrics import nearest, neighbour_ratio
from .fig5 import N
from .finding import Finding, Setting, stacked
from .models import SCALED, data_of, reference, sampled

SHOWN, NEIGHBOURS = 10, 9
LEAST, MOST = 0.9, 1.25
STATEMENT = (
    f"samples are {LEAST} to {MOST} × as far from their nearest training image as held-out images"
)


def run(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Find the neighbours."""
    sheets, ratios = list[Image.Image](), dict[str, float]()
    for name in data_of(setting, data):
        there = reference(setting, name)
        assert there.test is not None
        train, test = everything(there.train), everything(there.test)
        x = sampled(setting, "ncsn", name, N[setting.scale]).x
        ratios[f"{name}: ratio of distances"] = neighbour_ratio(x, train, test).ratio
        sheets.append(_sheet(x[:SHOWN], train))
    return Finding(
        STATEMENT,
        ratios,
        all(LEAST <= ratio <= MOST for ratio in ratios.values()),
        stacked(sheets),
        scaled=SCALED if setting.scale == "small" else "",
    )


def _sheet(x: Tensor, train: Tensor) -> Image.Image:
    """Each sample, an empty place, its neighbours."""
    found = train[nearest(x, train, NEIGHBOURS).indices]
    rows = torch.cat([x[:, None], torch.ones_like(x[:, None]), found], 1)
    return images.grid(rows.flatten(0, 1), rows.shape[1])
