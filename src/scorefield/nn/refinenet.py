"""RefineNet, the score network of NCSN and NCSNv2.

    s(x, σᵢ) = F(x, i)             with CondInstanceNorm++ (Song & Ermon 2019, app. A)
    s(x, σ)  = F(x)/σ              with InstanceNorm++     (Song & Ermon 2020, §3.3 and app. B)

A pre-activation ResNet whose later stages dilate instead of halving, and a chain of refinement
blocks (Lin et al. 2017) back up. The division by σ is the preconditioner's.
"""

from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import check_arguments, constructor_arguments
from .images import Images, check_image, crop, pad
from .layers import (
    Conv3,
    InstanceNormPlus,
    LevelIndex,
    PreActivation,
    PreActivationBlock,
    identity,
    max_pool,
    mean_pool,
    resize_bilinear,
)

Depth = Literal["original", "deeper", "deepest"]
"""NCSN's depth, and those of NCSNv2 for images of 64 and of 256 pixels a side."""
DEPTHS: dict[Depth, tuple[tuple[int, int], ...]] = {
    "original": ((1, 1), (2, 1), (2, 2), (2, 4)),
    "deeper": ((1, 1), (2, 1), (2, 1), (4, 2), (4, 4)),
    "deepest": ((1, 1), (2, 1), (2, 1), (2, 1), (4, 2), (4, 4)),
}
"""Width (times the network's) and dilation of each stage, for images of 28 and 32 pixels, of 64 to
128, of 256. After the first stage, a dilation of 1 halves the size, a larger one keeps it."""


class RefineNet(nn.Module):
    """The network of NCSN and NCSNv2, for images in [0, 1].

    Any height and width will do: the image is padded inside to what the halvings allow. Without
    `levels` it is NCSNv2: InstanceNorm++, no norm in the refinement, and maxima where NCSN takes
    means.

    Args:
        channels: channels of the image
        width: features of the first stage; the papers take 64 for MNIST and 128 for others
        levels: noise levels that CondInstanceNorm++ distinguishes, for NCSN
        depth: "original", "deeper" or "deepest", for larger images; see `DEPTHS`
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        levels: int | None = None,
        *,
        depth: Depth = "original",
    ):
        super().__init__()
        self.arguments = constructor_arguments(locals())
        # InstanceNorm++ compares channels with each other
        check_arguments(self.arguments, {"depth": list(DEPTHS)}, channels=1, width=2, levels=1)
        stages = DEPTHS[depth]
        self.halvings = sum(dilation == 1 for _, dilation in stages[1:])
        widths = [width, *(width * factor for factor, _ in stages)]
        self.begin = Conv3(channels, width)
        block = partial(PreActivationBlock, levels=levels)
        self.encoder = nn.ModuleList(
            nn.ModuleList([block(a, b, opens=i > 0, dilation=d), block(b, b, dilation=d)])
            for i, (a, b, (_, d)) in enumerate(zip(widths, widths[1:], stages, strict=False))
        )
        # each block ends with the width of the next finer stage
        self.decoder = nn.ModuleList(
            Refinement(widths[i + 1], widths[i], levels, first=i == len(stages) - 1, last=i == 0)
            for i in reversed(range(len(stages)))
        )
        self.end = PreActivation(InstanceNormPlus(width, levels), F.elu, Conv3(width, channels))

    def forward(self, x: Images, cond: LevelIndex = None) -> Images:
        """Return F(x, cond), with cond the index of each sample's noise level, if any."""
        check_image(x, self.begin.in_channels)
        features = []
        h = self.begin(pad(2 * x - 1, 2**self.halvings))
        for blocks in self.encoder:
            for block in blocks.children():
                h = block(h, cond)
            features.append(h)
        refined: Tensor | None = None
        for refine in self.decoder:
            refined = refine(features.pop(), refined, cond)
        return crop(self.end(refined, cond), x.shape[2:])


class Refinement(nn.Module):
    """Adapt a stage, merge it with the coarser result, pool in a chain, and smooth.

    Song & Ermon 2019, app. A.2; Lin et al. 2017, §3.2. Only the NCSN's blocks normalise. The
    `first` block has nothing to merge and keeps the stage's width; the `last` smooths three times.
    """

    def __init__(self, features: int, out: int, levels: int | None, *, first: bool, last: bool):
        super().__init__()
        inputs, out = (1, features) if first else (2, out)
        self.adapt = nn.ModuleList(_smoothing(features, 2, levels) for _ in range(inputs))
        self.merge = nn.ModuleList(
            PreActivation(_norm(features, levels), identity, Conv3(features, out))
            for _ in range(0 if first else 2)
        )
        pool = max_pool if levels is None else mean_pool
        self.pools = nn.ModuleList(
            PreActivation(_norm(out, levels), pool, Conv3(out, out, bias=False)) for _ in range(2)
        )
        self.activation = nn.ELU()
        self.smooth = _smoothing(out, 3 if last else 1, levels)

    def forward(self, x: Images, refined: Images | None, level: LevelIndex) -> Images:
        """Return the stage's features x, refined by those of the coarser stages."""
        inputs = [x] if refined is None else [x, refined]
        paths = [_smooth(h, units, level) for h, units in zip(inputs, self.adapt, strict=True)]
        h = paths[0]
        if refined is not None:
            fine, coarse = self.merge
            h = fine(h, level, resize_bilinear(coarse(paths[1], level), x.shape[2:]))
        h = self.activation(h)
        first, last = self.pools
        path = first(h, level)
        h = last(path, level, h + path)
        return _smooth(h, self.smooth, level)


def _smoothing(features: int, times: int, levels: int | None) -> nn.ModuleList:
    """Return the units of `times` residual convolutions, two for each."""
    return nn.ModuleList(
        PreActivation(_norm(features, levels), F.elu, Conv3(features, features, bias=False))
        for _ in range(2 * times)
    )


def _smooth(h: Tensor, units: nn.Module, level: LevelIndex) -> Tensor:
    pairs = units.children()
    for first, second in zip(pairs, pairs, strict=True):
        h = second(first(h, level), level, h)
    return h


def _norm(features: int, levels: int | None) -> InstanceNormPlus | None:
    return None if levels is None else InstanceNormPlus(features, levels)
