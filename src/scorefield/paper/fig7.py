"""Figures 7 and 8: a single small noise level does not give images.

Figure 7 shows samples of the baseline, the same network told of σ = 0.01 only, by plain Langevin
dynamics; Figure 8 the way to them.                                             (§5, B.2, C.1)

Where data are rare, and that is all but everywhere at σ = 0.01, the score was never learned: chains
from uniform noise do not find the images.

Setting   the paper's, appendix B.2: ε = 2e-5, T = 1,000; as `models` has it, which says what is the
          code's.
Ours      how much worse: by the Fréchet distance of pixels to held-out images.
PASS      the baseline's distance is at least 3 × that of annealed Langevin dynamics.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from ..data import all_samples
from ..metrics import frechet
from ..show import images
from .fig5 import N
from .finding import Finding, Setting, stacked
from .models import Samples, data_of, reference, sampled, scaled

TIMES = 3.0
STATEMENT = (
    f"the Fréchet distance of the baseline's samples is at least {TIMES:g} × that of annealed "
    "Langevin dynamics"
)


def run(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Figure 7."""
    return _compared(setting, data, lambda found: images.grid(found.x[:100]))


def run_way(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Figure 8: the same, and the picture shows the way."""
    return _compared(
        setting, data, lambda found: images.grid(found.way[:10].flatten(0, 1), found.way.shape[1])
    )


def _compared(
    setting: Setting, data: tuple[str, ...], sheet: Callable[[Samples], Image.Image]
) -> Finding:
    n, passed = setting.samples(N[setting.scale]), True
    numbers, sheets = dict[str, float](), list[Image.Image]()
    for name in data_of(setting, data):
        there = reference(setting, name).test
        assert there is not None
        test = all_samples(there, 10_000)
        single = sampled(setting, "baseline", name, n)
        annealed = sampled(setting, "ncsn", name, n)
        distances = frechet(single.x, test), frechet(annealed.x, test)
        numbers |= {f"{name}: Fréchet distance of the baseline": distances[0]}
        numbers |= {f"{name}: of annealed Langevin dynamics": distances[1]}
        passed &= distances[0] >= TIMES * distances[1]
        sheets.append(sheet(single))
    return Finding(
        STATEMENT,
        numbers,
        passed,
        stacked(sheets),
        scaled=scaled(setting, f"{n} samples"),
    )
