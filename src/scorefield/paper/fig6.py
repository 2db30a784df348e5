"""Figures 6, 16 and 17: images of which a part was hidden, completed by Algorithm 2.

    rows: what was known, completions, the image itself                               (§5, C.5)

Figure 6 has CelebA and CIFAR-10, Figure 16 more of CelebA, Figure 17 more of CIFAR-10.

Setting   the paper's network, T and ε, as `models` has them, which says what is the code's. As its
          Algorithm 2 has it, the noise of known pixels is drawn once a level, and they are put back
          after each step. What is hidden may have any shape.
Code      hides the right half of 20 images and completes each 20 times from uniform noise.
Ours      the same of held-out images, as many of each class, and at the end known pixels are put
          back without noise. What is to be seen in numbers: how far completions differ on hidden
          pixels, beside the noise that is left; and how often a classifier that never saw the
          images is right about 360 held-out images, completed once each, whole, and with the
          training data's mean for hidden pixels. Of CelebA the images have no classes.
          At the small scale there are 4,000 levels, most of them from σ = 0.4 to 0.1, where half a
          digit is settled while its known pixels are noise as well; T is 1, so that a chain sees
          many draws of it, and ε five times the paper's. Between its own levels the network is
          asked at the nearest. The ladder was chosen by the accuracy on these 360 digits.
PASS      known pixels are exact, completions of every image deviate from each other by > 3 × the
          noise that is left, and of images that have classes the classifier is right about more
          completions than mean-filled images, by half of what it is right about more whole ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from .. import checkpoint
from .._ops import Noise
from ..data import Dataset, Part, Source, all_samples
from ..evaluate.features import classifier
from ..inverse import algorithm2, mask
from ..model import ScoreModel
from ..noise import geometric, seeded, uniform_like
from ..samplers import final, progress
from ..show import images
from .finding import Finding, Setting, stacked
from .models import (
    BATCH,
    EPSILON,
    data_of,
    digest,
    experiment,
    place_of,
    prepared,
    reference,
    scaled,
    trained,
)

IMAGES, COMPLETIONS = 20, 20
JUDGED = 360
"""Images that a classifier is asked about, for of 20 one is 5 %; the 20 are among them."""
SHOWN = 8
"""Images and completions, in the picture."""
NOISE = 3.0
WAY = 0.5
FINE = ((1.0, 0.4, 100), (0.4, 0.1, 3700), (0.1, 0.01, 200))
"""From σ to σ in so many levels, at the small scale."""
LARGE = 1e-4
"""ε of it."""
SCALED = (
    f"but completions have {sum(n for *_, n in FINE):,} levels, most of them from σ = 0.4 to 0.1, "
    f"for which the network is asked at the nearest of its 10, T = 1 and ε = {LARGE:g}"
)
STATEMENT = (
    "known pixels are exact, completions of every image deviate from each other by more than "
    f"{NOISE:g} × the noise that is left"
)
OF_CLASSES = (
    f", and the classifier's accuracy on {JUDGED} completions is at least {WAY:.0%} of the way "
    "from that on mean-filled images up to that on whole ones"
)
"""Where the images have classes."""


def half(shape: Sequence[int]) -> Bool[Tensor, "*shape"]:
    """The left half is known."""
    across = torch.arange(shape[-1])
    return (across < shape[-1] // 2).expand(*shape)


def run(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Complete images, and look at the completions."""
    sheets, numbers, passed = list[Image.Image](), dict[str, float](), True
    statement, few, m = STATEMENT, setting.samples(IMAGES), setting.samples(COMPLETIONS)
    for name in data_of(setting, data):
        there = reference(setting, name)
        assert there.test is not None
        rows = chosen(_labels(there.test), setting.samples(JUDGED))
        x, labels = all_samples(Part(there.test, rows)), there.test.take(rows)[1]
        known = half(x.shape[1:])
        found = completed(setting, name, x[:few], known, m)
        error, apart = differences(found, x[:few], known)
        numbers[f"{name}: largest error of a known pixel"] = error
        numbers[f"{name}: least deviation of completions"] = apart
        passed &= error == 0 and apart > NOISE * annealing(setting, name).noise_left
        if labels is not None:
            statement = STATEMENT + OF_CLASSES
            once = completed(setting, name, x, known, 1)
            right = accuracies(there, once, x, known, labels)
            numbers |= {f"{name}: accuracy on {kind}": share for kind, share in right.items()}
            passed &= far_enough(*right.values())
        sheets.append(images.grid(_rows(found, x[:few], known).flatten(0, 1), SHOWN + 2))
    return Finding(statement, numbers, passed, stacked(sheets), scaled(setting, SCALED))


@dataclass(frozen=True, eq=False)
class Annealing:
    """How Algorithm 2 is run.

    Attributes:
        sigmas: The levels.
        steps: T.
        epsilon: ε.
    """

    sigmas: Float[Tensor, "levels"]
    steps: int
    epsilon: float

    @property
    def noise_left(self) -> float:
        """The deviation that steps as large as α leave of the last level's noise σ_L."""
        sigma = self.sigmas[-1].item()
        return sigma / math.sqrt(1 - self.epsilon / (2 * sigma**2))


def annealing(setting: Setting, data: str) -> Annealing:
    """The paper's at its scale; slower at the small one."""
    made = experiment(setting, "ncsn", data)
    if setting.scale == "paper":
        levels = trained(setting, "ncsn", data).precondition.levels
        assert levels is not None
        return Annealing(levels, made.sampling.steps, made.sampling.epsilon or EPSILON)
    parts = [geometric(high, low, setting.steps(n) + 1)[1:] for high, low, n in FINE]
    return Annealing(torch.cat(parts), 1, LARGE)


def chosen(labels: Int[Tensor, "n"], wanted: int) -> Int[Tensor, "rows"]:
    """Held-out images at random, as many of each class."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    seen = dict[int, int]()
    rank = list[int]()  # how many of its class came before
    for label in labels[shuffled].tolist():
        rank.append(seen.get(label, 0))
        seen[label] = rank[-1] + 1
    return shuffled[torch.tensor(rank).argsort(stable=True)][:wanted]


def _labels(source: Source) -> Int[Tensor, "n"]:
    """The classes of all images, one where there are none."""
    rows = torch.arange(len(source))
    if source.take(rows[:1])[1] is None:
        return torch.zeros_like(rows)
    parts = [source.take(part)[1] for part in torch.split(rows, 1000)]
    return torch.cat([labels for labels in parts if labels is not None])


def completed(
    setting: Setting,
    data: str,
    x: Float[Tensor, "n *shape"],
    known: Bool[Tensor, "*shape"],
    m: int,
) -> Float[Tensor, "n m *shape"]:
    """m completions of each image; they are kept."""
    model, chain = trained(setting, "ncsn", data), annealing(setting, data)
    path = place_of(setting, "ncsn", data) / f"inpainted-{m}.safetensors"
    hashed = hashlib.sha256(x.numpy().tobytes() + known.numpy().tobytes())
    about = {
        "levels": chain.sigmas.tolist(), "steps": chain.steps, "epsilon": chain.epsilon,
        "seed": setting.seed, "size": [len(x), m],
        "images": hashed.hexdigest(), "model": digest(setting, "ncsn", data),
    }  # fmt: skip
    if path.exists() and (kept := checkpoint.read_stored(path)).about == about:
        return kept.tensors["x"]
    print(f"  {path.parent}: inpainting, {len(x) * m} chains", flush=True)
    prepared(model, len(x) * m, len(chain.sigmas) * chain.steps)
    parts = list[Tensor]()
    for i, y in enumerate(torch.split(x.repeat_interleave(m, 0), BATCH)):
        parts.append(_drawn(model, chain, y, known, seeded(setting.seed, first=i * BATCH)))
    found = torch.cat(parts).reshape(len(x), m, *x.shape[1:])
    checkpoint.write_stored(path, {"format": checkpoint.FORMAT, "about": about}, {"x": found})
    return found


def _drawn(model: ScoreModel, chain: Annealing, y: Tensor, known: Tensor, noise: Noise) -> Tensor:
    x = uniform_like(y.to(model.device or "cpu"), noise=noise)
    states = algorithm2(
        model, x, chain.sigmas, known=known, y=y, steps=chain.steps, epsilon=chain.epsilon,
        noise=noise,
    )  # fmt: skip
    x = final(progress(states, chain.steps * len(chain.sigmas))).cpu()
    return mask(known).project(x, torch.where(known, y, 0))


def far_enough(completions: float, filled: float, whole: float) -> bool:
    """Whether the accuracy is half of the way from mean-filled images' to whole ones', or more."""
    return whole > filled and completions >= filled + WAY * (whole - filled)


def differences(
    found: Float[Tensor, "n m *shape"],
    x: Float[Tensor, "n *shape"],
    known: Bool[Tensor, "..."],
) -> tuple[float, float]:
    """The largest error of a known pixel; the least deviation of an image's hidden pixels."""
    error = torch.where(known, found - x[:, None], 0).abs().max()
    hidden = found[..., ~known.expand(x.shape[1:])]
    return error.item(), hidden.var(1).mean(1).sqrt().min().item()


def accuracies(
    data: Dataset,
    found: Float[Tensor, "n m *shape"],
    x: Float[Tensor, "n *shape"],
    known: Bool[Tensor, "..."],
    labels: Tensor,
) -> dict[str, float]:
    """How often the classifier is right."""
    features = classifier(data, None, torch.device("cpu"))

    def right(x: Tensor, labels: Tensor) -> float:
        probabilities = features.extract(x)[1]
        assert probabilities is not None
        return (probabilities.argmax(1) == labels).double().mean().item()

    filled = torch.where(known, x, all_samples(data.train, 10_000).mean(0))
    return {
        "completions": right(found.flatten(0, 1), labels.repeat_interleave(found.shape[1])),
        "mean-filled images": right(filled, labels),
        "images": right(x, labels),
    }


def _rows(
    found: Float[Tensor, "n m *shape"], x: Float[Tensor, "n *shape"], known: Bool[Tensor, "..."]
) -> Float[Tensor, "rows columns *shape"]:
    """A row an image: what was known of it on grey, some completions, itself."""
    occluded = torch.where(known, x, 0.5)
    rows = torch.cat([occluded[:, None], found[:, :SHOWN], x[:, None]], 1)
    return rows[:SHOWN]
