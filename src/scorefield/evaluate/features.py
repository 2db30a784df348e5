"""In which numbers samples are compared: their own, a classifier's, or an Inception network's.

What made the features goes into every figure that is taken of them.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Dataset, Part, Source, all_samples
from ..show import images
from .inception import Inception

WIDTHS = (128, 64)
"""Of the classifier; the last are its features."""
LABELLED = 20_000
"""Samples that the classifier learns from, at most."""
FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
"""As torch-fidelity and pytorch-fid call the same weights."""

Extract = Callable[[Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Features:
    """A map of samples into ℝᵈ.

    Attributes:
        about: What made it, said in every figure.
        digest: Of all that it depends on.
        extract: The features of a batch, and the probabilities of its classes if it knows any.
    """

    about: str
    digest: str
    extract: Extract


def pixels(data: Dataset, weights: Path | None, device: torch.device) -> Features:
    """The samples' own numbers."""
    name = "pixels" if data.kind == "images" else "coordinates"
    return Features(name, name, lambda x: (x.flatten(1).float().cpu(), None))


def classifier(data: Dataset, weights: Path | None, device: torch.device) -> Features:
    """The last layer of a network of two, trained on the data's classes; the same each time."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if not data.classes or data.test is None:
        raise ValueError(f"features=classifier: {data.name} has no classes or none held out")
    (x, labels), (test, true) = (_labelled(part) for part in (data.train, data.test))
    centre, scale = x.mean(), x.std()
    machine = MLPClassifier(WIDTHS, random_state=0, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred rounds are enough
        machine.fit(((x - centre) / scale).numpy(), labels.numpy())
    layers = [
        (torch.from_numpy(w.astype(np.float32)), torch.from_numpy(b.astype(np.float32)))
        for w, b in zip(machine.coefs_, machine.intercepts_, strict=True)
    ]

    def extract(x: Tensor) -> tuple[Tensor, Tensor]:
        h = (x.flatten(1).float().cpu() - centre) / scale
        for weight, bias in layers[:-1]:
            h = (h @ weight + bias).relu()
        weight, bias = layers[-1]
        return h, (h @ weight + bias).softmax(1)

    probabilities = extract(test)[1]
    right = (torch.from_numpy(machine.classes_)[probabilities.argmax(1)] == true).double().mean()
    total = hashlib.sha256(f"{centre.item()} {scale.item()}".encode())
    for each in (part for layer in layers for part in layer):
        total.update(each.contiguous().numpy().tobytes())
    about = (
        f"classifier of {data.name}, {WIDTHS[-1]} features, right about "
        f"{100 * right.item():.1f} % of the held-out, {total.hexdigest()[:8]}"
    )
    return Features(about, total.hexdigest(), extract)


def inception(data: Dataset, weights: Path | None, device: torch.device) -> Features:
    """Those of FID as the papers have it, of samples in 8 bits; grey ones in three channels."""
    if data.kind != "images" or data.train.shape[0] not in (1, 3):
        raise ValueError(f"features=inception are of images, grey or in colour: not of {data.name}")
    path = weights_file(weights)
    net = Inception().eval().requires_grad_(False)
    try:
        # weights alone: nothing in the file is run
        stored = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(stored)
    except (pickle.UnpicklingError, RuntimeError, TypeError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} does not hold the weights of the FID Inception network: {error!s:.300}"
        ) from error
    net.to(device)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def extract(x: Tensor) -> tuple[Tensor, Tensor]:
        pictures = images.as_bytes(x).expand(-1, 3, -1, -1).to(device)
        parts = [net(part) for part in torch.split(pictures, 32)]
        features, logits = (torch.cat(side).cpu() for side in zip(*parts, strict=True))
        return features, logits.softmax(1)

    return Features(f"Inception-v3 of FID, weights {digest[:8]}", digest, extract)


FEATURES: dict[str, Callable[[Dataset, Path | None, torch.device], Features]] = {
    "pixels": pixels,
    "classifier": classifier,
    "inception": inception,
}
"""All that there are, each by its name; of a data set, with a file of weights, on a device."""


def weights_file(given: Path | None) -> Path:
    """The file of the network: that which was named, or one that other programs have fetched."""
    if given is not None:
        if not given.is_file():
            raise ValueError(f"{given} is no file: name one of {' or '.join(FILES)}")
        return given
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"features=inception needs the network's weights, and nothing is downloaded unasked: name "
        f"the file {FILES[0]} (a release of torch-fidelity on GitHub) by --inception, or put it "
        f"into {folder}, where torch-fidelity and pytorch-fid keep it"
    )


def _labelled(source: Source) -> tuple[Float[Tensor, "n size"], Tensor]:
    """Samples as rows, and their labels; of many, evenly spaced ones."""
    rows = torch.arange(0, len(source), -(-len(source) // LABELLED))
    labels = [source.take(part)[1] for part in torch.split(rows, 1000)]
    found = [each for each in labels if each is not None]
    if len(found) != len(labels):
        raise ValueError("features=classifier: the samples have no labels")
    return all_samples(Part(source, rows)).flatten(1), torch.cat(found)
