"""Figures 5 and 11 to 13: uncurated samples of annealed Langevin dynamics.

Figure 5 has MNIST, CelebA and CIFAR-10 (§5); Figures 11, 12 and 13 more of each (C.3).

Setting   the paper's, as `models` has it, which says what is the code's.
Ours      what is to be seen in numbers: the Fréchet distance of pixels between samples and held-out
          images, beside that of as many training images.
PASS      the samples' distance is at most 3 × that of the training images.
"""

from __future__ import annotations

from ..data import all_samples
from ..metrics import frechet
from ..show import images
from .finding import Finding, Setting, stacked
from .models import data_of, reference, sampled, scaled

SHOWN = 100
N = {"paper": 10_000, "small": 240}
"""Samples; a Fréchet distance takes many times as many as there are pixels."""
TIMES = 3.0
STATEMENT = (
    f"the Fréchet distance of samples to held-out images is at most {TIMES:g} × that of as many "
    "training images"
)


def run(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Draw, and compare."""
    n = setting.samples(N[setting.scale])
    found = {name: sampled(setting, "ncsn", name, n).x for name in data_of(setting, data)}
    numbers, passed = dict[str, float](), True
    for name, x in found.items():
        there = reference(setting, name)
        assert there.test is not None
        train, test = all_samples(there.train, len(x)), all_samples(there.test, 10_000)
        distance, floor = frechet(x, test), frechet(train, test)
        numbers |= {f"{name}: Fréchet distance": distance, f"{name}: of real images": floor}
        passed &= distance <= TIMES * floor
    return Finding(
        STATEMENT,
        numbers,
        passed,
        stacked([images.grid(x[:SHOWN]) for x in found.values()]),
        scaled=scaled(setting, f"{n} samples"),
    )
