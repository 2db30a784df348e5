"""Figures 7 and 8: a single small noise level does not give images.

Figure 7 shows samples of the baseline, the same network trained at σ = 0.01 only, by plain Langevin
dynamics; Figure 8 the paths to them.                                           (§5, B.2, C.1)

Where data are rare, which at σ = 0.01 is nearly everywhere, the score was never learned: chains
from uniform noise do not find the images.

Ours      the figure in numbers: the Fréchet distance of pixels to held-out images.
"""

from dataclasses import replace

from ..metrics import frechet
from ..show import images
from .fig4 import path_sheet
from .finding import Finding
from .models import REFERENCE_IMAGES, PaperModel

BASELINE_RATIO = 3.0  # of the baseline over annealed dynamics, at least
STATEMENT = (
    f"the Fréchet distance of the baseline's samples is at least {BASELINE_RATIO:g} × that of "
    "annealed Langevin dynamics"
)


def run(model: PaperModel, *, paths: bool = False) -> Finding:
    """Compare the baseline with annealing, and show its samples, or in Figure 8 their paths."""
    n, heldout = model.sample_count, model.images("test", REFERENCE_IMAGES)
    baseline = replace(model, kind="baseline")
    x = baseline.samples(n)
    distance, annealed = frechet(x, heldout), frechet(model.samples(n), heldout)
    return Finding(
        STATEMENT,
        {"Fréchet distance of the baseline": distance, "of annealed Langevin dynamics": annealed},
        distance >= BASELINE_RATIO * annealed,
        path_sheet(baseline.paths()) if paths else images.grid(x[:100]),
        f"{n} samples",
    )
