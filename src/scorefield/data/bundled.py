"""What comes with scikit-learn: small data that nothing has to be downloaded for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._draws import permutation
from .dataset import Dataset
from .delimited import Reading
from .source import Arrays, Crops


def digits() -> Dataset:
    """1,797 scanned digits of 8 × 8 pixels and 17 grey levels; 1,437 to train on, 360 held out.

    A pixel v of 0 … 16 stands for [v, v + 1)/17: in 256ths the 17 levels would remain 17 spikes.

    A fifth of each class is held out, at random, for the file is sorted by writer: between its last
    360 digits and 360 of the others the Fréchet distance of pixels (v + u)/17 is 0.30. Between the
    digits held out here and 360 of the others it is 0.149 on average, with a standard deviation of
    0.012; of ten seeds, whose averages go from 0.132 to 0.158, the one closest to their mean of
    0.147 was taken.
    """
    from sklearn.datasets import load_digits  # here, for it takes a second

    bundle = load_digits()
    images = torch.from_numpy(bundle.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bundle.target.astype(np.int64))
    train, test = (
        Arrays(images[rows], labels[rows], levels=17) for rows in _stratified(bundle.target)
    )
    return Dataset("digits", train, test, classes=10)


def wine() -> Dataset:
    """178 wines as a table: 13 chemical measures and the vineyard, one of three; 36 held out."""
    from sklearn.datasets import load_wine

    return _table("wine", load_wine(), "class")


def breast_cancer() -> Dataset:
    """569 tumours as a table: 30 measures of cell nuclei and the diagnosis; 114 held out."""
    from sklearn.datasets import load_breast_cancer

    return _table("breast-cancer", load_breast_cancer(), "diagnosis")


def _table(name: str, bundle: Any, target: str) -> Dataset:
    """A bundle as the table that a file of it would be, a fifth of each class held out."""
    names = [str(each) for each in bundle.target_names]
    rows = [
        [*(f"{value:.10g}" for value in values), names[label]]
        for values, label in zip(bundle.data.tolist(), bundle.target, strict=True)
    ]
    table = [[*map(str, bundle.feature_names), target], *rows]
    return Reading(name).dataset(
        name, lambda: enumerate(table, 1), lambda _: _stratified(bundle.target)
    )


def _stratified(target: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The rows to train on, and a fixed fifth of each class."""
    # a fixed permutation, sorted by class
    shuffled = permutation(4, 0, len(target))
    order = torch.from_numpy(shuffled[np.argsort(target[shuffled], kind="stable")])
    held = torch.arange(len(order)) % 5 == 0
    return order[~held], order[held]


def photos(*, side: int = 32) -> Dataset:
    """Crops of two photographs, a temple and a flower, of 640 × 427 pixels in colour.

    The right fifth of each is held out, so no pixel of a test crop is ever trained on.

    Args:
        side: of a crop; there are 380,952 of 32 × 32 to train on, and 76,824 held out.
    """
    from sklearn.datasets import load_sample_images

    pictures = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    cut = pictures.shape[3] * 4 // 5
    train, test = pictures[..., :cut].contiguous(), pictures[..., cut:].contiguous()
    return Dataset("photos", Crops(train, side), Crops(test, side))
