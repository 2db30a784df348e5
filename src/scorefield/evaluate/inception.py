"""The Inception-v3 network whose features the papers' FID and inception score are of.

    8-bit image → bilinear to 299 × 299 → (x − 128)/128 → 94 convolutions → mean over 8 × 8 → 2048
    logits = W·features, without their bias: 1008

It is the network of Szegedy et al. 2016 with the weights of 2015-12-05 that Heusel et al. 2017 and
Salimans et al. 2016 took, and differs from the later ones: means at an edge are of what is inside
(not of the padding), the last block takes a maximum where the others take a mean, images are
resized as TensorFlow 1 did. The names are those of torch-fidelity's and pytorch-fid's file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

SIDE, SIZE = 299, 2048
"""Pixels a side that the network sees, and its features."""

Step: TypeAlias = tuple[str, int, int | tuple[int, int]]
"""A convolution: its name, how many features it makes, its kernel."""
Path: TypeAlias = Sequence[Step | tuple[Step, Step]]
"""Convolutions one after the other; a pair of them goes side by side."""


class Inception(nn.Module):
    """Features and logits of 8-bit images in colour, of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padded=True)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = Mixed(192, _a(), pooled=32)
        self.Mixed_5c = Mixed(256, _a(), pooled=64)
        self.Mixed_5d = Mixed(288, _a(), pooled=64)
        self.Mixed_6a = Mixed(288, _b())
        self.Mixed_6b = Mixed(768, _c(128), pooled=192)
        self.Mixed_6c = Mixed(768, _c(160), pooled=192)
        self.Mixed_6d = Mixed(768, _c(160), pooled=192)
        self.Mixed_6e = Mixed(768, _c(192), pooled=192)
        self.Mixed_7a = Mixed(768, _d())
        self.Mixed_7b = Mixed(1280, _e(), pooled=192)
        self.Mixed_7c = Mixed(2048, _e(), pooled=192, pool="max")
        self.fc = nn.Linear(SIZE, 1008)

    def forward(
        self, x: UInt8[Tensor, "n 3 height width"]
    ) -> tuple[Float[Tensor, "n 2048"], Float[Tensor, "n 1008"]]:
        """The features of each image, and its logits without the bias."""
        h = (resized(x.float(), SIDE) - 128) / 128
        h = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(h)))
        h = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(h, 3, 2)))
        h = F.max_pool2d(h, 3, 2)
        for name, block in self.named_children():
            h = block(h) if name.startswith("Mixed") else h
        features = h.mean((2, 3))
        return features, features @ self.fc.weight.T


def resized(
    x: Float[Tensor, "n channels height width"], side: int
) -> Float[Tensor, "n channels side side"]:
    """Bilinear as TensorFlow 1 did it: output i is of input i·size/side, from the corner."""
    rows, columns = (_weights(size, side).to(x) for size in x.shape[2:])
    return rows @ x @ columns.T


def _weights(size: int, side: int) -> Tensor:
    """What each of `side` outputs takes of `size` inputs."""
    place = torch.arange(side) * (size / side)
    low, share = place.long(), place.frac()[:, None]
    eye = torch.eye(size)
    return (1 - share) * eye[low] + share * eye[(low + 1).clamp(max=size - 1)]


class Convolution(nn.Module):
    """ReLU of the normalised convolution."""

    def __init__(
        self,
        features: int,
        width: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padded: bool = False,
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(features, width, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Float[Tensor, "n _ _ _"]) -> Float[Tensor, "n _ _ _"]:
        """The features."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Paths side by side, and a pooled one; without features of its own this one halves the size.

    Args:
        features: that come in.
        paths: each its convolutions, the last of which halves the size as well.
        pooled: features of the convolution after the pooling, 0 for none.
        pool: what is pooled where the size stays.
    """

    def __init__(
        self,
        features: int,
        paths: Sequence[Path],
        *,
        pooled: int = 0,
        pool: Literal["mean", "max"] = "mean",
    ) -> None:
        super().__init__()
        self.paths, self.pool = paths, pool
        for path in paths:
            before = features
            for i, step in enumerate(path):
                last = not pooled and i == len(path) - 1
                for name, width, kernel in _side_by_side(step):
                    made = Convolution(
                        before, width, kernel, stride=2 if last else 1, padded=not last
                    )
                    self.add_module(name, made)
                before = width
        self.branch_pool = Convolution(features, pooled, 1) if pooled else None

    def forward(self, x: Float[Tensor, "n _ _ _"]) -> Float[Tensor, "n _ _ _"]:
        """All paths' features."""
        return torch.cat(
            [*(y for path in self.paths for y in self._along(path, x)), self._last(x)], 1
        )

    def _along(self, path: Path, x: Tensor) -> Iterator[Tensor]:
        for step in path[:-1]:
            ((name, _, _),) = _side_by_side(step)
            x = self.get_submodule(name)(x)
        for name, _, _ in _side_by_side(path[-1]):
            yield self.get_submodule(name)(x)

    def _last(self, x: Tensor) -> Tensor:
        if self.branch_pool is None:
            return F.max_pool2d(x, 3, 2)
        pooled = (
            F.max_pool2d(x, 3, 1, 1)
            if self.pool == "max"
            else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        )
        out: Tensor = self.branch_pool(pooled)
        return out


def _side_by_side(step: Step | tuple[Step, Step]) -> tuple[Step, ...]:
    return step if isinstance(step[0], tuple) else (step,)


# ── The five kinds of block ──────────────────────────────────────────────────────────────────────


def _a() -> Sequence[Path]:
    return (
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
    )


def _b() -> Sequence[Path]:
    return (
        (("branch3x3", 384, 3),),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
    )


def _c(width: int) -> Sequence[Path]:
    flat, tall = (1, 7), (7, 1)
    return (
        (("branch1x1", 192, 1),),
        (("branch7x7_1", width, 1), ("branch7x7_2", width, flat), ("branch7x7_3", 192, tall)),
        (
            ("branch7x7dbl_1", width, 1),
            ("branch7x7dbl_2", width, tall),
            ("branch7x7dbl_3", width, flat),
            ("branch7x7dbl_4", width, tall),
            ("branch7x7dbl_5", 192, flat),
        ),
    )


def _d() -> Sequence[Path]:
    return (
        (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)),
        (
            ("branch7x7x3_1", 192, 1),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
            ("branch7x7x3_4", 192, 3),
        ),
    )


def _e() -> Sequence[Path]:
    flat, tall = (1, 3), (3, 1)
    return (
        (("branch1x1", 320, 1),),
        (("branch3x3_1", 384, 1), (("branch3x3_2a", 384, flat), ("branch3x3_2b", 384, tall))),
        (
            ("branch3x3dbl_1", 448, 1),
            ("branch3x3dbl_2", 384, 3),
            (("branch3x3dbl_3a", 384, flat), ("branch3x3dbl_3b", 384, tall)),
        ),
    )
