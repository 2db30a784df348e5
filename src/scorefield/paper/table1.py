"""Table 1: inception score and FID of unconditional samples, on CIFAR-10.

    NCSN   8.87 ± 0.12   25.32                                                            (§5)

Setting   the paper's, 50,000 samples, as `models` has it, which says what is the code's; FID to the
          training images.
Ours      the paper takes the checkpoint of the least FID on 1,000 samples, this the one of the
          least held-out loss, which chooses nothing by the number that is reported. At the small
          scale the same of digits, in the features of their classifier, where no number is
          published: so the score is held against that of as many held-out images (that of CIFAR-10
          itself is 11.24, Salimans et al. 2016) and the distance against theirs.
PASS      paper: the score is at least 8.87 less 3 × 0.12, the FID at most 1.1 × 25.32; small: the
          score is at least 8.87/11.24 of real images', the distance at most 3 × theirs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from ..data import all_samples
from ..metrics import frechet, inception_score
from ..show import plots
from .features import features_of, mapped
from .fig5 import N as SMALL
from .finding import Finding, Setting, drawn
from .models import reference, sampled, scaled

N = {"paper": 50_000, "small": SMALL["small"]}
SPLITS = 10
SCORE, ERROR, FID = 8.87, 0.12, 25.32
REAL = 11.24
WITHIN, TIMES = 1.1, 3.0
STATEMENTS = {
    "paper": (
        f"the inception score is at least {SCORE} less 3 × {ERROR}, the FID at most {WITHIN:g} × "
        f"{FID}"
    ),
    "small": (
        f"the inception score is at least {SCORE}/{REAL} of that of held-out images, the Fréchet "
        f"distance at most {TIMES:g} × theirs"
    ),
}


def run(setting: Setting) -> Finding:
    """Draw, and measure in the features' space."""
    name = "cifar10" if setting.scale == "paper" else "digits"
    n, there = setting.samples(N[setting.scale]), reference(setting, name)
    assert there.test is not None
    features, x = features_of(setting, name), sampled(setting, "ncsn", name, n).x
    real, (train, _) = mixed(all_samples(there.test, n)), mapped(features, all_samples(there.train))
    numbers = dict[str, float]()
    for what, images in (("samples", x), ("held-out images", real)):
        found, probabilities = mapped(features, images)
        score = inception_score(probabilities, min(SPLITS, len(images)))
        numbers |= {f"{name}: inception score of {what}": score.value}
        numbers |= {f"{name}: its deviation over splits, {what}": score.error}
        numbers |= {f"{name}: Fréchet distance of {what}": frechet(found, train)}
    return Finding(
        STATEMENTS[setting.scale],
        numbers,
        passed(setting, numbers),
        drawn(_picture(numbers)),
        scaled=scaled(
            setting, f"{n} samples, not 50,000", "a classifier of the digits, not Inception"
        ),
    )


def mixed(x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
    """In random order: held-out images may come class by class, and splits would have one each."""
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def passed(setting: Setting, numbers: dict[str, float]) -> bool:
    """Whether the statement of the scale holds."""
    score, _, distance, real_score, _, real_distance = numbers.values()
    if setting.scale == "paper":
        return score >= SCORE - 3 * ERROR and distance <= WITHIN * FID
    return score >= SCORE / REAL * real_score and distance <= TIMES * real_distance


def _picture(numbers: dict[str, float]) -> Figure:
    """Two bar charts: samples, and held-out images beside them."""
    figure, axes = plots.charts(2, width=4.0, height=3.0)
    score, error, distance, real_score, real_error, real_distance = numbers.values()
    bars = ("samples", "held-out images")
    axes[0].bar(bars, (score, real_score), yerr=(error, real_error), color=plots.COLOURS[:2])
    axes[0].set(title="inception score")
    axes[1].bar(bars, (distance, real_distance), color=plots.COLOURS[:2])
    axes[1].set(title="Fréchet distance to training images")
    return figure
