"""Where samples come from: anything that can be taken from by index.

8-bit samples are integers 0 … levels − 1, and stand for the cells [v, v + 1)/levels of [0, 1]: a
batch draws a point of the cell (Theis et al. 2016, §3.1), `all_samples` takes its middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ..prior import Prior
from ._draws import permutation


@runtime_checkable
class Source(Protocol):
    """Samples by index."""

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample: (channels, height, width) of an image, (size,) of a vector."""

    @property
    def levels(self) -> int:
        """How many values an 8-bit sample can take, 256 if nothing else is known."""

    def __len__(self) -> int: ...

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, Int[Tensor, "batch"] | None]:
        """The samples of these indices, uint8 or floats, and their labels if they have any."""

    def to(self, device: torch.device | str) -> Source:
        """The same on a device; what is too large for memory stays where it is."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Samples in memory, on any device: uint8, or floats, which are taken as they are."""

    data: UInt8[Tensor, "n *shape"] | Float[Tensor, "n *shape"]
    labels: Int[Tensor, "n"] | None = None
    levels: int = 256

    def __post_init__(self) -> None:
        if not len(self.data) or (self.labels is not None and len(self.labels) != len(self.data)):
            count = "no" if self.labels is None else f"{len(self.labels)}"
            raise ValueError(
                f"data has {len(self.data)} rows beside {count} labels: give at least one sample, "
                "and a label for each or none at all"
            )

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample."""
        return self.data.shape[1:]

    def __len__(self) -> int:
        return len(self.data)

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, Int[Tensor, "batch"] | None]:
        """The samples of these indices, and their labels."""
        index = index.to(self.data.device)
        return self.data[index], None if self.labels is None else self.labels[index]

    def to(self, device: torch.device | str) -> Arrays:
        """The same on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, data=self.data.to(device), labels=labels)


@dataclass(frozen=True, eq=False)
class Part:
    """Some samples of another source, which stays whole: for one that is too large to copy."""

    source: Source
    rows: Int[Tensor, "n"]

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample."""
        return self.source.shape

    @property
    def levels(self) -> int:
        """Those of the whole."""
        return self.source.levels

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, Int[Tensor, "batch"] | None]:
        """The samples of these indices, and their labels."""
        return self.source.take(self.rows[index])

    def to(self, device: torch.device | str) -> Part:
        """Itself: the whole would come along, for each of its parts."""
        return self


@dataclass(frozen=True, eq=False)
class Crops:
    """Every square of a side that lies in one of several pictures of equal size.

    Index i is a position: pictures first, then rows, then columns.
    """

    pictures: UInt8[Tensor, "pictures channels height width"]
    side: int = 32
    levels: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.side <= min(self.pictures.shape[2:]):
            height, width = self.pictures.shape[2:]
            raise ValueError(
                f"side={self.side}: a crop of a picture of {height} × {width} pixels has a side "
                f"from 1 to {min(height, width)}"
            )

    @property
    def shape(self) -> torch.Size:
        """The shape of one crop."""
        return torch.Size([self.pictures.shape[1], self.side, self.side])

    def _windows(self) -> Tensor:
        """A view: picture × channel × row × column × side × side."""
        return self.pictures.unfold(2, self.side, 1).unfold(3, self.side, 1)

    def __len__(self) -> int:
        pictures, _, rows, columns = self._windows().shape[:4]
        return pictures * rows * columns

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, None]:
        """The crops of these indices."""
        windows = self._windows()
        rows, columns = windows.shape[2:4]
        index = index.to(windows.device)
        place = index % (rows * columns)
        return windows[index // (rows * columns), :, place // columns, place % columns], None

    def to(self, device: torch.device | str) -> Crops:
        """The same on a device."""
        return replace(self, pictures=self.pictures.to(device))


def hold_out(n: int, share: float) -> tuple[Int[Tensor, "train"], Int[Tensor, "test"]]:
    """A fixed permutation of n rows, cut in two: what is trained on and what is held out.

    At least one row is held out, if there are two.
    """
    order = torch.from_numpy(permutation(0, 0, n).copy())
    kept = n - min(max(round(n * share), 1), n - 1)
    return order[:kept], order[kept:]


def centre(x: Tensor, levels: int) -> Tensor:
    """The middles (v + ½)/levels of 8-bit cells; floats as they are."""
    return (x.float() + 0.5) / levels if x.dtype == torch.uint8 else x.float()


def all_samples(source: Source, limit: int | None = None) -> Float[Tensor, "n *shape"]:
    """The clean data in the model's units, for priors, metrics and `suggest`.

    Args:
        source: the samples.
        limit: no more than this many, a fixed random choice.
    """
    chosen = _chosen(len(source), limit)
    return torch.cat([centre(source.take(rows)[0], source.levels) for rows in chosen])


def moments(source: Source, limit: int = 10_000) -> Prior:
    """The Gaussian of the data's mean and covariance, those of dequantised cells if it is 8-bit.

    Args:
        source: the samples.
        limit: of more than this many, a fixed random choice.
    """
    eight_bit = source.take(torch.zeros(1, dtype=torch.int64))[0].dtype == torch.uint8
    # Var u/levels: a pixel that is black throughout still has a density
    blur = 1 / (12 * source.levels**2) if eight_bit else 0.0
    return Prior.fit(all_samples(source, limit), blur=blur)


def _chosen(n: int, limit: int | None) -> Iterator[Int[Tensor, "rows"]]:
    """Indices, a thousand at a time, so that little but the result is held."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: give at least 1 sample, or None for all")
    rows = torch.arange(n)
    if limit is not None and limit < n:
        rows = torch.from_numpy(permutation(0, 0, n)[:limit].copy()).sort().values
    return iter(torch.split(rows, 1000))
