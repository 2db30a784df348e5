"""Figures 4, 14 and 15: samples on their way from noise to images, level by level.

    rows: chains;  columns: the start, and the end of each of the 10 noise levels        (§5, C.4)

Figure 4 has MNIST, CelebA and CIFAR-10, Figure 14 more of CelebA, Figure 15 more of CIFAR-10 (its
caption says CelebA again).

Setting   the paper's, as `models` has it, which says what is the code's.
Ours      what is to be seen in numbers: after T steps at a level the chains are spread as q_σ is,
          which has the data's variance and Dσ² more. Were a level left out, or its step too short,
          they would be spread too far.
PASS      the variance of the chains at the end of each level is that of q_σ, to 25 %.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..data import all_samples
from ..show import images
from .finding import Finding, Setting, stacked
from .models import FEW, data_of, reference, sampled, scaled, trained

CLOSE = 0.25
SHOWN = 10
STATEMENT = (
    f"at the end of each noise level the variance of {FEW} chains is that of q_σ, to {CLOSE:.0%}"
)


def run(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Sample each data set's model, and look at the first chains."""
    ways, ratios = list[Tensor](), dict[str, Tensor]()
    for name in data_of(setting, data):
        sigmas = trained(setting, "ncsn", name).precondition.levels
        assert sigmas is not None
        ways.append(way := sampled(setting, "ncsn", name, setting.samples(FEW)).way)
        ratios[name] = spread(
            way, all_samples(reference(setting, name).train, 10_000), sigmas.cpu()
        )
    return Finding(
        STATEMENT,
        {
            f"{name}: variance over that of q, level {i}": ratio
            for name, found in ratios.items()
            for i, ratio in enumerate(found.tolist(), 1)
        },
        all((found - 1).abs().max() <= CLOSE for found in ratios.values()),
        stacked([images.grid(way[:SHOWN].flatten(0, 1), way.shape[1]) for way in ways]),
        scaled=scaled(setting),
    )


def spread(
    way: Float[Tensor, "chains states *shape"],
    x: Float[Tensor, "n *shape"],
    sigmas: Float[Tensor, "levels"],
) -> Float[Tensor, "levels"]:
    """The variance of the chains at the end of each level over tr Cov(x) + Dσ²."""
    found = way[:, -len(sigmas) :].flatten(2).var(0).sum(1)
    data = x.flatten(1)
    ratio: Tensor = found / (data.var(0).sum() + data.shape[1] * sigmas**2)
    return ratio
