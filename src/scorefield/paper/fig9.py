"""Figures 9 and 10: samples next to the training images that are nearest to them.

    rows: a sample, then its neighbours by ‖f(x) − f(y)‖₂, the nearest first               (C.2)

In Figure 9 f(x) are pixels, in Figure 10 the features of an Inception v3 network.

The model has not memorised its data: its samples are as far from training images as new images are.

Ours      the figure in numbers: the median distance of samples to their nearest training image over
          that of held-out images, 1 for a model of the data's distribution, far below 1 for copies.
          If training mirrors images, a mirrored image counts as a training image.
"""

import torch

from ..metrics import nearest, neighbour_ratio
from ..show import images
from .finding import Finding
from .models import PaperModel

SMALLEST_RATIO = 0.9
LARGEST_RATIO = 1.25
STATEMENT = (
    f"samples are {SMALLEST_RATIO} to {LARGEST_RATIO} × as far from their nearest training image "
    "as held-out images"
)


def run(model: PaperModel, *, features: bool = False) -> Finding:
    """Compare distances to training images, of pixels or in Figure 10 of features."""
    n = model.sample_count
    x, train, heldout = model.samples(n), model.images("train"), model.images("test")
    if model.experiment.data.flip:
        train = torch.cat([train, train.flip(-1)])
    sets = [x, train, heldout]
    if features:
        sets = [model.features.extract(part)[0] for part in sets]
    ratio = neighbour_ratio(*sets)
    # a row: the sample, an empty place and its neighbours
    neighbours = train[nearest(sets[0][:10], sets[1], min(9, len(train))).indices]
    rows = torch.cat([x[:10, None], torch.ones_like(x[:10, None]), neighbours], 1)
    classifier = "; features of a classifier of the digits, not of an Inception network" * features
    return Finding(
        STATEMENT,
        {"ratio of distances": ratio},
        SMALLEST_RATIO <= ratio <= LARGEST_RATIO,
        images.grid(rows.flatten(0, 1), rows.shape[1]),
        f"{n} samples{classifier}",
    )
