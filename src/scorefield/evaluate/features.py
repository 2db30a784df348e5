"""Features in which samples are compared: their own numbers, a classifier's, or Inception's."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..convert.shared import read_pickle
from ..data import Dataset, Part, Source, all_samples
from ..fast.optimize import allow_tf32
from ..show import images
from .inception import Inception

CLASSIFIER_WIDTHS = (128, 64)
"""Hidden units of the classifier's layers; the last ones are its features."""
MAX_LABELLED = 20_000
"""Most samples that the classifier is trained on."""
INCEPTION_FILES = (
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
"""Names that torch-fidelity and pytorch-fid give to the same weights."""


@dataclass(frozen=True, eq=False)
class Features:
    """Map of samples into ℝᵈ. `extract` also returns class probabilities, or None."""

    about: str  # description with a hash of the weights; part of every figure
    extract: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    classes: int = 0  # number of the data's classes, if the probabilities are of these


def make_features(
    name: str, data: Dataset, *, weights: Path | None = None, device: torch.device | str = "cpu"
) -> Features:
    """Return the features of a name: "pixels", "classifier" (of the data's classes) or "inception".

    `weights` is the file of the Inception network's weights, `device` where it runs.
    """
    if name == "pixels":
        about = "pixels" if data.kind == "images" else "coordinates"
        return Features(about, lambda x: (x.flatten(1).float().cpu(), None))
    if name == "classifier":
        return classifier_features(data)
    if name == "inception":
        return inception_features(data, weights, torch.device(device))
    raise ValueError(f"features={name!r}: there are pixels, classifier and inception")


def classifier_features(data: Dataset) -> Features:
    """Return the last hidden layer of a perceptron trained on the data's classes.

    The training is deterministic. Probabilities have a column for each of the data's classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if not data.classes or data.test is None:
        raise ValueError(f"features=classifier: {data.name} has no classes or none held out")
    (x, labels), (test, truth) = (_labelled_rows(part) for part in (data.train, data.test))
    centre, scale = x.mean(), x.std()
    network = MLPClassifier(CLASSIFIER_WIDTHS, random_state=0, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred epochs are enough
        network.fit(((x - centre) / scale).numpy(), labels.numpy())
    weights, biases = (
        [torch.from_numpy(array).float() for array in arrays]
        for arrays in (network.coefs_, network.intercepts_)
    )
    columns = torch.from_numpy(network.classes_)

    def extract(x: Tensor) -> tuple[Tensor, Tensor]:
        h = (x.flatten(1).float().cpu() - centre) / scale
        for weight, bias in zip(weights[:-1], biases, strict=False):
            h = (h @ weight + bias).relu()
        out = h @ weights[-1] + biases[-1]
        if len(columns) == 2:  # scikit-learn has a single output for two classes
            out = torch.cat([torch.zeros_like(out), out], 1)
        logits = out.new_full((len(h), len(data.classes)), -torch.inf)
        logits[:, columns] = out
        return h, logits.softmax(1)

    accuracy = (extract(test)[1].argmax(1) == truth).double().mean().item()
    numbers = [tensor.contiguous().numpy().tobytes() for tensor in (*weights, *biases)]
    digest = hashlib.sha256(b"".join([f"{centre.item()} {scale.item()}".encode(), *numbers]))
    about = (
        f"classifier of {data.name}, {CLASSIFIER_WIDTHS[-1]} features, {100 * accuracy:.1f} % of "
        f"the held-out samples right, {digest.hexdigest()[:8]}"
    )
    return Features(about, extract, len(data.classes))


def inception_features(data: Dataset, weights: Path | None, device: torch.device) -> Features:
    """Return the features of FID, computed from 8-bit images; grey ones get three channels.

    On a GPU this switches off TF32 for the whole process, as `optimize` does.
    """
    if data.kind != "images" or data.train.shape[0] not in (1, 3):
        raise ValueError(f"features=inception needs grey or colour images, not {data.name}")
    path = weights_file(weights)
    network = Inception().eval().requires_grad_(False)
    try:
        network.load_state_dict(cast(Any, read_pickle(path)))
    except (RuntimeError, TypeError, ValueError) as error:
        message = f"{path} does not hold the weights of FID's Inception: {error!s:.300}"
        raise ValueError(message) from error
    network.to(device)
    if device.type != "cpu":
        allow_tf32(False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]

    def extract(x: Tensor) -> tuple[Tensor, Tensor]:
        pictures = images.as_bytes(x).expand(-1, 3, -1, -1).to(device)
        parts = [network(part) for part in torch.split(pictures, 32)]
        features, logits = (torch.cat(side).cpu() for side in zip(*parts, strict=True))
        return features, logits.softmax(1)

    return Features(f"Inception-v3 of FID, weights {digest}", extract)


def weights_file(path: Path | None) -> Path:
    """Return the file of the Inception network: the one named, or one in torch's cache."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for file in [folder / name for name in INCEPTION_FILES] if path is None else [path]:
        if file.is_file():
            return file
    if path is not None:
        raise ValueError(f"{path} is not a file: name one of {' or '.join(INCEPTION_FILES)}")
    raise ValueError(
        f"features=inception needs the network's weights, and nothing is downloaded unasked: name "
        f"the file {INCEPTION_FILES[0]} (a release of torch-fidelity on GitHub) with --inception, "
        f"or put it into {folder}, where torch-fidelity and pytorch-fid keep it"
    )


def _labelled_rows(source: Source) -> tuple[Float[Tensor, "n size"], Tensor]:
    """Return samples as rows and their labels; evenly spaced ones of a large source."""
    rows = torch.arange(0, len(source), -(-len(source) // MAX_LABELLED))
    return all_samples(Part(source, rows)).flatten(1).cpu(), read_labels(source, rows)


def read_labels(source: Source, rows: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """Return the labels of some samples."""
    conditions = [source.take(part)[1] for part in torch.split(rows, 250)]
    labels = [part.get("label") if isinstance(part, Mapping) else part for part in conditions]
    if any(part is None for part in labels):
        raise ValueError("the samples have no labels, from which classes are read")
    return torch.cat([part.cpu() for part in labels if part is not None])
