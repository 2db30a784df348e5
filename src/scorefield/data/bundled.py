"""Small data sets that come with scikit-learn, without any download."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._random import permutation
from .csv_table import TableReader
from .sources import Arrays, Crops, Dataset, Split


def digits() -> Dataset:
    """Load 1,797 scanned digits of 8 × 8 pixels and 17 grey levels; 1,437 to train on.

    A pixel v of 0 … 16 stands for [v, v + 1)/17: in 256ths the 17 levels would remain 17 spikes.
    A fifth of each class is held out, at random because the file is sorted by writer. Of ten seeds,
    this one gives the Fréchet distance of pixels to the others (0.149) that is closest to the mean.
    """
    from sklearn.datasets import load_digits  # its import takes a second

    bundle = load_digits()
    images = torch.from_numpy(bundle.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bundle.target.astype(np.int64))
    source = Arrays(images, labels, levels=17)
    names = tuple("0123456789")
    return Dataset.split("digits", source, _stratified_split(bundle.target), classes=names)


def wine() -> Dataset:
    """Load 178 wines as a table: 13 chemical measurements and one of three vineyards."""
    from sklearn.datasets import load_wine

    return _bundled_table("wine", load_wine(), "class")


def breast_cancer() -> Dataset:
    """Load 569 tumours as a table: 30 measurements of cell nuclei and the diagnosis."""
    from sklearn.datasets import load_breast_cancer

    return _bundled_table("breast-cancer", load_breast_cancer(), "diagnosis")


def _bundled_table(name: str, bundle: Any, target: str) -> Dataset:
    """Read a bundle like a file of the same table; a fifth of each class is held out."""
    classes = [str(text) for text in bundle.target_names]
    rows = [
        [*(f"{value:.10g}" for value in values), classes[label]]
        for values, label in zip(bundle.data.tolist(), bundle.target, strict=True)
    ]
    records = [[*map(str, bundle.feature_names), target], *rows]
    split = _stratified_split(bundle.target)
    return TableReader(name, lambda: (("", record) for record in records)).dataset(split)


def _stratified_split(target: NDArray[np.int64]) -> Split:
    """Return the rows to train on, and a fixed fifth of each class."""
    shuffled = permutation(4, len(target)).numpy()
    order = torch.from_numpy(shuffled[np.argsort(target[shuffled], kind="stable")])
    test = torch.arange(len(order)) % 5 == 0
    return order[~test], order[test]


def photos(*, side: int = 32) -> Dataset:
    """Load crops of side² pixels of two colour photographs, a temple and a flower, of 640 × 427.

    The right fifth of each is held out, so no pixel of a test crop is ever trained on. There are
    380,952 crops of 32 × 32 pixels to train on, and 76,824 held out.
    """
    from sklearn.datasets import load_sample_images

    images = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    cut = images.shape[3] * 4 // 5
    train, test = images[..., :cut].contiguous(), images[..., cut:].contiguous()
    return Dataset("photos", Crops(train, side), Crops(test, side))
