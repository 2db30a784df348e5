"""Figures 5 and 11 to 13: uncurated samples of annealed Langevin dynamics.

Figure 5 has MNIST, CelebA and CIFAR-10 (§5); Figures 11, 12 and 13 more of each (C.3).

Setting   the paper's, as in `models`, which says what is the code's.
Ours      the figure in numbers: the Fréchet distance of pixels between samples and held-out images,
          compared with that of as many training images.
PASS      the samples' distance is at most 3 × that of the training images.
"""

from __future__ import annotations

from PIL import Image

from ..metrics import frechet
from ..show import images
from .finding import Finding, Setting, side_by_side
from .models import COMPARED_SAMPLES, REFERENCE_IMAGES, paper_models, scaled_setting

DISTANCE_RATIO = 3.0  # of samples over training images, at most
STATEMENT = (
    f"the Fréchet distance of samples to held-out images is at most {DISTANCE_RATIO:g} × that of "
    "as many training images"
)


def run(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Sample each data set's model, and compare with real images."""
    n, passed = setting.samples(COMPARED_SAMPLES[setting.scale]), True
    sheets, numbers = list[Image.Image](), dict[str, float]()
    for model in paper_models(setting, data):
        x, heldout = model.samples(n).x, model.heldout_images(REFERENCE_IMAGES)
        distance, floor = frechet(x, heldout), frechet(model.training_images(n), heldout)
        numbers |= {f"{model.data}: Fréchet distance of samples": distance}
        numbers |= {f"{model.data}: of training images": floor}
        passed &= distance <= DISTANCE_RATIO * floor
        sheets.append(images.grid(x[:100]))
    scaled = scaled_setting(setting, f"{n} samples")
    return Finding(STATEMENT, numbers, passed, side_by_side(sheets), scaled)
