"""Figures 7 and 8: a single small noise level does not give images.

Figure 7 shows samples of the baseline, the same network trained at σ = 0.01 only, by plain Langevin
dynamics; Figure 8 the paths to them.                                           (§5, B.2, C.1)

Where data are rare, which at σ = 0.01 is nearly everywhere, the score was never learned: chains
from uniform noise do not find the images.

Setting   the paper's, appendix B.2: ε = 2e-5, T = 1,000; as in `models`, which says what is the
          code's.
Ours      the figure in numbers: the Fréchet distance of pixels to held-out images.
PASS      the baseline's distance is at least 3 × that of annealed Langevin dynamics.
"""

from __future__ import annotations

from PIL import Image

from ..metrics import frechet
from ..show import images
from .fig4 import path_sheet
from .finding import Finding, Setting, side_by_side
from .models import COMPARED_SAMPLES, REFERENCE_IMAGES, paper_models, scaled_setting

BASELINE_RATIO = 3.0  # of the baseline over annealed dynamics, at least
STATEMENT = (
    f"the Fréchet distance of the baseline's samples is at least {BASELINE_RATIO:g} × that of "
    "annealed Langevin dynamics"
)


def run(setting: Setting, data: tuple[str, ...], *, paths: bool = False) -> Finding:
    """Compare the baseline with annealing, and show its samples, or in Figure 8 their paths."""
    n, passed = setting.samples(COMPARED_SAMPLES[setting.scale]), True
    sheets, numbers = list[Image.Image](), dict[str, float]()
    models = zip(paper_models(setting, data, "baseline"), paper_models(setting, data), strict=True)
    for baseline, ncsn in models:
        heldout = baseline.heldout_images(REFERENCE_IMAGES)
        single = baseline.samples(n)
        distance, annealed = frechet(single.x, heldout), frechet(ncsn.samples(n).x, heldout)
        numbers |= {f"{ncsn.data}: Fréchet distance of the baseline": distance}
        numbers |= {f"{ncsn.data}: of annealed Langevin dynamics": annealed}
        passed &= distance >= BASELINE_RATIO * annealed
        sheets.append(path_sheet(single) if paths else images.grid(single.x[:100]))
    scaled = scaled_setting(setting, f"{n} samples")
    return Finding(STATEMENT, numbers, passed, side_by_side(sheets), scaled)
