"""The Inception-v3 network of the papers' FID and inception score.

    8-bit image → bilinear to 299 × 299 → (x − 128)/128 → 94 convolutions → mean over 8 × 8 → 2048
    logits = W·features, without their bias: 1008

The network of Szegedy et al. 2016 with the weights of 2015-12-05 that Heusel et al. 2017 and
Salimans et al. 2016 used. It differs from later versions: means at an edge leave out the padding,
the last block pools by maximum, and images are resized as in TensorFlow 1. Names are those of
torch-fidelity's and pytorch-fid's file.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

INPUT_SIDE = 299
"""Side of the network's input in pixels."""
DOUBLE_3X3 = "branch3x3dbl_1 64 1 > branch3x3dbl_2 96 3 > branch3x3dbl_3 96 3"
BLOCKS = {
    "A": ("branch1x1 64 1", "branch5x5_1 48 1 > branch5x5_2 64 5", DOUBLE_3X3),
    "B": ("branch3x3 384 3", DOUBLE_3X3),
    "C": (
        "branch1x1 192 1",
        "branch7x7_1 {width} 1 > branch7x7_2 {width} 1x7 > branch7x7_3 192 7x1",
        "branch7x7dbl_1 {width} 1 > branch7x7dbl_2 {width} 7x1 > branch7x7dbl_3 {width} 1x7 > "
        "branch7x7dbl_4 {width} 7x1 > branch7x7dbl_5 192 1x7",
    ),
    "D": (
        "branch3x3_1 192 1 > branch3x3_2 320 3",
        "branch7x7x3_1 192 1 > branch7x7x3_2 192 1x7 > branch7x7x3_3 192 7x1 > branch7x7x3_4 192 3",
    ),
    "E": (
        "branch1x1 320 1",
        "branch3x3_1 384 1 > branch3x3_2a 384 1x3 + branch3x3_2b 384 3x1",
        "branch3x3dbl_1 448 1 > branch3x3dbl_2 384 3 > "
        "branch3x3dbl_3a 384 1x3 + branch3x3dbl_3b 384 3x1",
    ),
}
"""Name, width and kernel of each path's convolutions; > is followed by, + is next to."""


class Inception(nn.Module):
    """Features and logits of 8-bit colour images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padded=True)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = Mixed(192, "A", pooled=32)
        self.Mixed_5c = Mixed(256, "A", pooled=64)
        self.Mixed_5d = Mixed(288, "A", pooled=64)
        self.Mixed_6a = Mixed(288, "B")
        self.Mixed_6b = Mixed(768, "C", pooled=192, width=128)
        self.Mixed_6c = Mixed(768, "C", pooled=192, width=160)
        self.Mixed_6d = Mixed(768, "C", pooled=192, width=160)
        self.Mixed_6e = Mixed(768, "C", pooled=192, width=192)
        self.Mixed_7a = Mixed(768, "D")
        self.Mixed_7b = Mixed(1280, "E", pooled=192)
        self.Mixed_7c = Mixed(2048, "E", pooled=192, pool="max")
        self.fc = nn.Linear(2048, 1008)

    def forward(
        self, x: UInt8[Tensor, "n 3 height width"]
    ) -> tuple[Float[Tensor, "n 2048"], Float[Tensor, "n 1008"]]:
        """Return the features of each image, and its logits without the bias."""
        h = (resize_tensorflow(x.float(), INPUT_SIDE) - 128) / 128
        h = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(h)))
        h = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(h, 3, 2)))
        h = F.max_pool2d(h, 3, 2)
        for name, block in self.named_children():
            h = block(h) if name.startswith("Mixed") else h
        features = h.mean((2, 3))
        return features, features @ self.fc.weight.T


def resize_tensorflow(
    x: Float[Tensor, "n channels height width"], side: int
) -> Float[Tensor, "n channels side side"]:
    """Resize bilinearly as TensorFlow 1 did: output i is input i·size/side, from the corner."""

    def weights(size: int) -> Tensor:
        place = torch.arange(side, device=x.device) * (size / side)
        low, share = place.long(), place.frac()[:, None]
        eye = torch.eye(size, device=x.device)
        return ((1 - share) * eye[low] + share * eye[(low + 1).clamp(max=size - 1)]).to(x)

    height, width = x.shape[2:]
    return weights(height) @ x @ weights(width).T


class Convolution(nn.Module):
    """ReLU of a normalised convolution."""

    def __init__(
        self, features: int, width: int, *kernel: int, stride: int = 1, padded: bool = False
    ) -> None:
        super().__init__()
        sides = kernel[0], kernel[-1]
        padding = (sides[0] // 2 * padded, sides[1] // 2 * padded)
        self.conv = nn.Conv2d(features, width, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Float[Tensor, "n _ _ _"]) -> Float[Tensor, "n _ _ _"]:
        """Return the features."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Paths of a kind in `BLOCKS`, and a pooled one followed by a convolution of width `pooled`.

    With `pooled` 0, the pooling and the last convolution of each path halve the size. `width` is
    that of the inner convolutions of kind C.
    """

    def __init__(
        self, features: int, kind: str, *, pooled: int = 0, pool: str = "mean", width: int = 0
    ) -> None:
        super().__init__()
        self.pool, self.paths = pool, list[list[list[str]]]()
        for text in BLOCKS[kind]:
            steps = [step.split(" + ") for step in text.format(width=width).split(" > ")]
            self.paths.append([[part.split()[0] for part in step] for step in steps])
            size = features
            for step in steps:
                halves = not pooled and step is steps[-1]
                for name, out, kernel in (part.split() for part in step):
                    sides, stride = map(int, kernel.split("x")), 2 if halves else 1
                    block = Convolution(size, int(out), *sides, stride=stride, padded=not halves)
                    self.add_module(name, block)
                size = int(out)
        self.branch_pool = Convolution(features, pooled, 1) if pooled else None

    def forward(self, x: Float[Tensor, "n _ _ _"]) -> Float[Tensor, "n _ _ _"]:
        """Return the features of all paths."""
        paths = list[Tensor]()
        for path in self.paths:
            h = x
            for (name,) in path[:-1]:
                h = self.get_submodule(name)(h)
            paths += [self.get_submodule(name)(h) for name in path[-1]]
        if self.branch_pool is None:
            pooled = F.max_pool2d(x, 3, 2)
        elif self.pool == "max":
            pooled = self.branch_pool(F.max_pool2d(x, 3, 1, 1))
        else:
            pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        return torch.cat([*paths, pooled], 1)
