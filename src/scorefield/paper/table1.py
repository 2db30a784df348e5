"""Table 1: inception score and FID of unconditional samples, on CIFAR-10.

    NCSN   8.87 ± 0.12   25.32                                                            (§5)

Setting   the paper's, 50,000 samples; FID to the training images.
Ours      the paper takes the checkpoint of the lowest FID on 1,000 samples, here it is that of the
          lowest held-out loss, so that the reported number chooses nothing. At the small scale the
          same of digits, in the features of their classifier, for which no number is published: so
          the score is compared with that of as many held-out images (that of CIFAR-10 itself is
          11.24, Salimans et al. 2016), and the distance with theirs.
"""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from ..evaluate.quality import INCEPTION_SPLITS
from ..metrics import frechet, inception_score
from ..show import plots
from .finding import Finding, Setting
from .models import COMPARED_SAMPLES, PaperModel

PAPER_SCORE = 8.87
PAPER_SCORE_ERROR = 0.12
PAPER_FID = 25.32
CIFAR10_SCORE = 11.24
LARGEST_FID_RATIO = 1.1
LARGEST_SMALL_RATIO = 3.0
STATEMENTS = {
    "paper": (
        f"the inception score is at least {PAPER_SCORE} less 3 × {PAPER_SCORE_ERROR}, the FID at "
        f"most {LARGEST_FID_RATIO:g} × {PAPER_FID}"
    ),
    "small": (
        f"the inception score is at least {PAPER_SCORE}/{CIFAR10_SCORE} of that of held-out "
        f"images, the Fréchet distance at most {LARGEST_SMALL_RATIO:g} × theirs"
    ),
}


def run(model: PaperModel) -> Finding:
    """Sample, and measure in the space of features."""
    setting, extract = model.setting, model.features.extract
    n = setting.samples({"paper": 50_000, "small": COMPARED_SAMPLES["small"]}[setting.scale])
    heldout = model.images("test", n)
    # they may come class by class, and splits would have one each
    heldout = heldout[torch.randperm(len(heldout), generator=torch.Generator().manual_seed(0))]
    train, numbers = extract(model.images("train"))[0], dict[str, float]()
    for name, images in (("samples", model.samples(n)), ("held-out images", heldout)):
        features, probabilities = extract(images)
        assert probabilities is not None
        score = inception_score(probabilities, min(INCEPTION_SPLITS, len(images)))
        numbers |= {f"inception score of {name}": score.value}
        numbers |= {f"its deviation over splits, {name}": score.error}
        numbers |= {f"Fréchet distance of {name}": frechet(features, train)}
    values = list(numbers.values())
    scaled = f"{n} samples, not 50,000; a classifier of digits, not Inception"
    passed, picture = table_passes(setting, values), _bar_charts(values)
    return Finding(STATEMENTS[setting.scale], numbers, passed, picture, scaled)


def table_passes(setting: Setting, numbers: Sequence[float]) -> bool:
    """Return True if score, error and distance, then of held-out images, meet the statement."""
    score, _, distance, real_score, _, real_distance = numbers
    if setting.scale == "paper":
        enough = score >= PAPER_SCORE - 3 * PAPER_SCORE_ERROR
        return enough and distance <= LARGEST_FID_RATIO * PAPER_FID
    enough = score >= PAPER_SCORE / CIFAR10_SCORE * real_score
    return enough and distance <= LARGEST_SMALL_RATIO * real_distance


def _bar_charts(numbers: Sequence[float]) -> Figure:
    """Show score and distance of samples next to those of held-out images."""
    figure, axes = plots.charts(2, width=4.0, height=3.0)
    score, error, distance, real_score, real_error, real_distance = numbers
    bars = ("samples", "held-out images")
    axes[0].bar(bars, (score, real_score), yerr=(error, real_error), color=plots.COLOURS[:2])
    axes[0].set(title="inception score")
    axes[1].bar(bars, (distance, real_distance), color=plots.COLOURS[:2])
    axes[1].set(title="Fréchet distance to training images")
    return figure
