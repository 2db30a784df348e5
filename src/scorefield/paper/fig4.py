"""Figures 4, 14 and 15: samples on their way from noise to images, level by level.

    rows: chains;  columns: the start, and the end of each of the 10 noise levels        (§5, C.4)

Figure 4 has MNIST, CelebA and CIFAR-10, Figure 14 more of CelebA, Figure 15 more of CIFAR-10 (its
caption says CelebA again).

Ours      the figure in numbers: after T steps at a level the chains are spread as q_σ is, whose
          variance is the data's plus Dσ². If a level were left out, or its step too small, they
          would be spread too far.
"""

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..show import images
from .finding import Finding
from .models import RECORDED_CHAINS, REFERENCE_IMAGES, PaperModel

VARIANCE_TOLERANCE = 0.25
STATEMENT = (
    f"at the end of each noise level the variance of {RECORDED_CHAINS} chains is that of q_σ, to "
    f"{VARIANCE_TOLERANCE:.0%}"
)


def run(model: PaperModel) -> Finding:
    """Sample, and compare the spread of the chains with q_σ's."""
    paths, sigmas = model.paths(), model.plan.sigmas.cpu()
    x = model.images("train", REFERENCE_IMAGES).flatten(1)
    spread = paths[:, -len(sigmas) :].flatten(2).var(0).sum(1)  # at the end of each level
    ratios = (spread / (x.var(0).sum() + x.shape[1] * sigmas**2)).tolist()
    return Finding(
        STATEMENT,
        {f"variance over that of q, level {i}": ratio for i, ratio in enumerate(ratios, 1)},
        all(abs(ratio - 1) <= VARIANCE_TOLERANCE for ratio in ratios),
        path_sheet(paths),
    )


def path_sheet(paths: Float[Tensor, "chains states *shape"]) -> Image.Image:
    """Show the states of the first ten chains, a row each."""
    return images.grid(paths[:10].flatten(0, 1), paths.shape[1])
