"""In which features figure 10 and table 1 compare: Inception's, or those of the digits' classifier.

paper   Inception v3, its weights from `--inception` or where other programs keep them
small   the last layer of a small network that was trained on the digits' classes
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..evaluate.features import FEATURES, Features
from .finding import Setting
from .models import reference

KIND = {"paper": "inception", "small": "classifier"}
"""By scale."""
BATCH = 250


def features_of(setting: Setting, data: str) -> Features:
    """The map of images into ℝᵈ."""
    there = reference(setting, data)
    return FEATURES[KIND[setting.scale]](there, setting.inception, torch.device(setting.device))


def mapped(features: Features, x: Float[Tensor, "n *shape"]) -> tuple[Tensor, Tensor]:
    """The features of many images, and the probabilities of their classes."""
    parts = [features.extract(part) for part in torch.split(x, BATCH)]
    found, probabilities = zip(*parts, strict=True)
    return torch.cat(found), torch.cat([each for each in probabilities if each is not None])
