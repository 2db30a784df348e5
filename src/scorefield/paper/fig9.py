"""Figures 9 and 10: samples beside the training images that are nearest to them.

    rows: a sample, then its neighbours by ‖f(x) − f(y)‖₂, the nearest first               (C.2)

In Figure 9 f(x) are pixels, in Figure 10 the features of an Inception v3 network.

The model has not learned its data by heart: its samples are as far from training images as new
images are.

Setting   the paper's, CelebA and CIFAR-10, as `models` has it, which says what is the code's.
Ours      how near: the median distance of samples to their nearest training image over that of
          held-out images, 1 for a model of the data's law, far below 1 for copies. Where training
          mirrors images, a mirrored image is a training image too.
PASS      the ratio is from 0.9 to 1.25.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..data import all_samples
from ..metrics import nearest, neighbour_ratio
from ..show import images
from .features import features_of, mapped
from .fig5 import N
from .finding import Finding, Setting, stacked
from .models import data_of, experiment, reference, sampled, scaled

SHOWN, NEIGHBOURS = 10, 9
LEAST, MOST = 0.9, 1.25
STATEMENT = (
    f"samples are {LEAST} to {MOST} × as far from their nearest training image as held-out images"
)


def run(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Figure 9."""
    return _found(setting, data, lambda name, x: x)


def run_features(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Figure 10."""
    small = "features of a classifier of the digits, not of an Inception network"
    return _found(setting, data, lambda name, x: mapped(features_of(setting, name), x)[0], small)


def _found(
    setting: Setting, data: tuple[str, ...], space: Callable[[str, Tensor], Tensor], *small: str
) -> Finding:
    sheets, ratios = list[Image.Image](), dict[str, float]()
    for name in data_of(setting, data):
        there = reference(setting, name)
        assert there.test is not None
        x = sampled(setting, "ncsn", name, setting.samples(N[setting.scale])).x
        train = all_samples(there.train)
        if experiment(setting, "ncsn", name).data.flip:
            train = torch.cat([train, train.flip(-1)])
        sides = [space(name, each) for each in (x, train, all_samples(there.test))]
        ratios[f"{name}: ratio of distances"] = neighbour_ratio(*sides).ratio
        found = nearest(sides[0][:SHOWN], sides[1], min(NEIGHBOURS, len(train))).indices
        sheets.append(_sheet(x[:SHOWN], train[found]))
    return Finding(
        STATEMENT,
        ratios,
        all(LEAST <= ratio <= MOST for ratio in ratios.values()),
        stacked(sheets),
        scaled=scaled(setting, f"{N['small']} samples", *small),
    )


def _sheet(x: Float[Tensor, "n *shape"], found: Float[Tensor, "n k *shape"]) -> Image.Image:
    """Each sample, an empty place, its neighbours."""
    rows = torch.cat([x[:, None], torch.ones_like(x[:, None]), found], 1)
    return images.grid(rows.flatten(0, 1), rows.shape[1])
