"""Figures 5 and 11 to 13: uncurated samples of annealed Langevin dynamics.

Figure 5 has MNIST, CelebA and CIFAR-10 (§5); Figures 11, 12 and 13 more of each (C.3).

Ours      the figure in numbers: the Fréchet distance of pixels between samples and held-out images,
          compared with that of as many training images.
"""

from ..metrics import frechet
from ..show import images
from .finding import Finding
from .models import REFERENCE_IMAGES, PaperModel

DISTANCE_RATIO = 3.0  # of samples over training images, at most
STATEMENT = (
    f"the Fréchet distance of samples to held-out images is at most {DISTANCE_RATIO:g} × that of "
    "as many training images"
)


def run(model: PaperModel) -> Finding:
    """Sample, and compare with real images."""
    n = model.sample_count
    x, heldout = model.samples(n), model.images("test", REFERENCE_IMAGES)
    distance, floor = frechet(x, heldout), frechet(model.images("train", n), heldout)
    return Finding(
        STATEMENT,
        {"Fréchet distance of samples": distance, "of training images": floor},
        distance <= DISTANCE_RATIO * floor,
        images.grid(x[:100]),
        f"{n} samples",
    )
