"""The small networks of two figures, which ignore the noise level (Song & Ermon 2019).

    Figure 2   2 → 128 → 128 → 2, softplus between                               (app. B.1)
    Figure 1   conv, residual blocks 32, 64 ↓, 64, 128 ↓, 128, the same back, conv, ELU
    block      y = shortcut(x) + conv(φ(conv(φ(x))))

Where a block subsamples, its shortcut and its first convolution take steps of two pixels, and the
decoder's are their transposes. A mean of 2 × 2 pixels would lose the fine detail, where the score
of images with little noise is large: a network with such means hardly learned.

Softplus and ELU have the continuous derivative that sliced score matching differentiates again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from .arguments import constructor_arguments
from .images import Images, check_image, crop, pad
from .layers import Conv3


class ToyMLP(nn.Module):
    """The network of the 2019 paper's Figure 2, for vectors, which ignores the noise level.

    Args:
        size: numbers of a vector
        width: features of both hidden layers
    """

    def __init__(self, size: int = 2, *, width: int = 128) -> None:
        super().__init__()
        self.arguments = constructor_arguments(locals())
        sizes = pairwise([size, width, width, size])
        self.first, self.second, self.last = (nn.Linear(before, after) for before, after in sizes)

    def forward(
        self, x: Float[Tensor, "batch size"], cond: Real[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch size"]:
        """Return F(x); the noise level is ignored."""
        out: Tensor = self.last(F.softplus(self.second(F.softplus(self.first(x)))))
        return out


class Autoencoder(nn.Module):
    """The network of the 2019 paper's Figure 1, for images, which ignores the noise level.

    Args:
        channels: channels of the image
        widths: features of the encoder's blocks; every second one halves the size
    """

    def __init__(self, channels: int = 1, *, widths: Sequence[int] = (32, 64, 64, 128, 128)):
        super().__init__()
        self.arguments = constructor_arguments(locals())
        steps = list(enumerate(pairwise([widths[0], *widths])))
        self.factor = 2 ** (len(widths) // 2)
        self.begin = Conv3(channels, widths[0])
        down = [AutoencoderBlock(a, b, resize="down" if i % 2 else "") for i, (a, b) in steps]
        up = [AutoencoderBlock(b, a, resize="up" if i % 2 else "") for i, (a, b) in steps]
        self.blocks = nn.Sequential(*down, *reversed(up))
        self.end = Conv3(widths[0], channels)

    def forward(self, x: Images, cond: Real[Tensor, "batch"] | None = None) -> Images:
        """Return F(x); the noise level is ignored."""
        check_image(x, self.begin.in_channels)
        features = self.blocks(self.begin(pad(x, self.factor)))
        return crop(self.end(F.elu(features)), x.shape[2:])


class AutoencoderBlock(nn.Module):
    """Two convolutions and a shortcut; the first, and the shortcut, change the size."""

    def __init__(self, features: int, out: int, *, resize: Literal["", "down", "up"]):
        super().__init__()
        change = RESIZE[resize]
        self.first, self.second = change(features, out), Conv3(out, out)
        self.shortcut: Callable[[Tensor], Tensor] = nn.Identity()
        if resize:
            self.shortcut = change(features, out)
        elif features != out:
            self.shortcut = nn.Conv2d(features, out, 1)

    def forward(self, x: Images) -> Images:
        """Return shortcut(x) + convolutions(x)."""
        h: Tensor = self.second(F.elu(self.first(F.elu(x))))
        return h + self.shortcut(x)


RESIZE: dict[str, Callable[[int, int], nn.Module]] = {
    "": Conv3,
    "down": partial(nn.Conv2d, kernel_size=3, stride=2, padding=1),
    "up": partial(nn.ConvTranspose2d, kernel_size=3, stride=2, padding=1, output_padding=1),
}
