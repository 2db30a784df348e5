"""Sources, from which samples are taken by index, and data sets made of them.

An 8-bit sample v of 0 … levels − 1 stands for the cell [v, v + 1)/levels of [0, 1]. A batch samples
a point of the cell (Theis et al. 2016, §3.1); `all_samples` takes its middle.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from .._ops import RowCondition, check_count
from ..oracles import Oracle
from ..values import check_names
from ._random import permutation
from .autoencoder import Latents
from .table import Table

Labelled: TypeAlias = tuple[Tensor, Int[Tensor, "batch"] | None]
"""Samples, uint8 or floats, and their labels if they have any."""
Rows: TypeAlias = tuple[Tensor, RowCondition]
"""Samples, and their labels or conditions if they have any."""
MAX_CLASSES = 2**16
"""A network has parameters for each class."""
Split: TypeAlias = tuple[Int[Tensor, "train"], Int[Tensor, "test"]]
"""Rows to train on, and rows held out."""


@runtime_checkable
class Source(Protocol):
    """Samples by index."""

    @property
    def shape(self) -> torch.Size:
        """Shape of one sample; (channels, height, width) of an image, (size,) of a vector."""

    @property
    def levels(self) -> int:
        """Number of values that an 8-bit sample can take."""
        return 256

    @property
    def device(self) -> torch.device:
        """Device where `take` expects its indices."""
        return torch.device("cpu")

    def __len__(self) -> int: ...

    def take(self, index: Int[Tensor, "batch"]) -> Rows:
        """Return the samples of these indices, and their labels or conditions."""

    def part(self, rows: Int[Tensor, "n"]) -> "Source":
        """Return the source of some rows."""
        return Part(self, rows)

    def to(self, device: torch.device | str) -> "Source":
        """Return the source on a device; one that is not in memory stays where it is."""
        return self


@dataclass(frozen=True, eq=False)
class Arrays(Source):
    """Samples in memory, on any device: uint8, or floats, which are used unchanged."""

    data: UInt8[Tensor, "n *shape"] | Float[Tensor, "n *shape"]
    labels: Int[Tensor, "n"] | None = None
    levels: int = 256

    def __post_init__(self) -> None:
        n, labels = len(self.data), self.labels
        if not n or (labels is not None and len(labels) != n):
            count = "no" if labels is None else len(labels)
            raise ValueError(f"data has {n} rows and {count} labels: give ≥ 1 row and a label each")

    @property
    def shape(self) -> torch.Size:
        """Shape of one sample."""
        return self.data.shape[1:]

    @property
    def device(self) -> torch.device:
        """Device of the samples."""
        return self.data.device

    def __len__(self) -> int:
        return len(self.data)

    def take(self, index: Int[Tensor, "batch"]) -> Labelled:
        """Return the samples of these indices and their labels."""
        index = index.to(self.data.device)
        return self.data[index], None if self.labels is None else self.labels[index]

    def part(self, rows: Int[Tensor, "n"]) -> "Arrays":
        """Return a copy of some rows."""
        return Arrays(*self.take(rows), self.levels)

    def to(self, device: torch.device | str) -> "Arrays":
        """Return the samples and labels on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, data=self.data.to(device), labels=labels)


@dataclass(frozen=True, eq=False)
class View(Source):
    """Samples of another source, which is not copied."""

    source: Source

    @property
    def shape(self) -> torch.Size:
        """Shape of one sample."""
        return self.source.shape

    @property
    def levels(self) -> int:
        """Number of values that an 8-bit sample can take."""
        return self.source.levels


@dataclass(frozen=True, eq=False)
class Part(View):
    """Some rows of another source."""

    rows: Int[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Int[Tensor, "batch"]) -> Rows:
        """Return the samples of these indices, and their labels or conditions."""
        return self.source.take(self.rows[index])


@dataclass(frozen=True, eq=False)
class Joined(View):
    """Samples of two sources in any order, without labels and conditions."""

    other: Source
    order: Int[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.order)

    def take(self, index: Int[Tensor, "batch"]) -> Rows:
        """Return the samples of these indices."""
        rows, first = self.order[index], len(self.source)
        parts = [(self.source, rows[rows < first]), (self.other, rows[rows >= first] - first)]
        x = torch.cat([source.take(own)[0] for source, own in parts if len(own)])
        return x[(rows >= first).argsort(stable=True).argsort()], None


@dataclass(frozen=True, eq=False)
class Pairs(View):
    """Samples and their conditions by name, which are the same rows of other sources."""

    conditions: Mapping[str, Source]

    def __post_init__(self) -> None:
        for name, other in self.conditions.items():
            if len(other) != len(self.source):
                raise ValueError(
                    f"condition {name!r:.80} has {len(other)} rows, but there are "
                    f"{len(self.source)} samples: give one for each"
                )

    @property
    def device(self) -> torch.device:
        """Device where `take` expects its indices."""
        return self.source.device

    def __len__(self) -> int:
        return len(self.source)

    def take(self, index: Int[Tensor, "batch"]) -> Rows:
        """Return the samples of these indices, and their labels and conditions by name."""
        x, labels = self.source.take(index)
        values = {"label": labels} if isinstance(labels, Tensor) else {}
        for name, other in self.conditions.items():
            rows = index.to(other.device)  # a source of files stays on the CPU
            values[name] = cell_centres(other.take(rows)[0], other.levels)
        return x, values

    def part(self, rows: Int[Tensor, "n"]) -> "Pairs":
        """Return some rows of all."""
        return self._change(lambda source: source.part(rows))

    def to(self, device: torch.device | str) -> "Pairs":
        """Return all sources on a device."""
        return self._change(lambda source: source.to(device))

    def _change(self, change: Callable[[Source], Source]) -> "Pairs":
        others = {name: change(source) for name, source in self.conditions.items()}
        return Pairs(change(self.source), others)


@dataclass(frozen=True, eq=False)
class Crops(Source):
    """All square crops of one size from images of equal size, row by row."""

    images: UInt8[Tensor, "images channels height width"]
    side: int = 32

    def __post_init__(self) -> None:
        largest = min(self.images.shape[2:])
        if not 1 <= self.side <= largest:
            raise ValueError(f"side={self.side}: give the side of a crop, from 1 to {largest}")

    @property
    def shape(self) -> torch.Size:
        """Shape of one crop."""
        return torch.Size([self.images.shape[1], self.side, self.side])

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self.images.device

    def _windows(self) -> Tensor:
        """Return a view: image × row × column × channel × side × side."""
        return self.images.unfold(2, self.side, 1).unfold(3, self.side, 1).movedim(1, 3)

    def __len__(self) -> int:
        return self._windows().shape[:3].numel()

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, None]:
        """Return the crops of these indices."""
        windows, index = self._windows(), index.to(self.device)
        rows, columns = windows.shape[1:3]
        # unravel_index would copy the shape to the device
        image, row = index // (rows * columns), index // columns % rows
        return windows[image, row, index % columns], None

    def to(self, device: torch.device | str) -> "Crops":
        """Return the images on a device."""
        return replace(self, images=self.images.to(device))


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream(Arrays):
    """Samples in the provider's order, which cannot be taken by index.

    As a `Source` it has only its first samples, which are in memory; moments and noise levels are
    computed from them. `rows` yields all rows from a position on, pass after pass.
    """

    rows: Callable[[int], Iterator[Any]]
    decode: Callable[[Any], tuple[Tensor, int | None]]

    def batches(self, start: int, size: int, share: range) -> Iterator[Labelled]:
        """Yield one process's share of each batch from a position on; only that is decoded."""
        rows = self.rows(start)
        while True:
            batch = [next(rows) for _ in range(size)]
            yield stack_samples([self.decode(batch[i]) for i in share])


def stack_samples(pairs: list[tuple[Tensor, int | None]]) -> Labelled:
    """Stack samples and their labels, if they have any."""
    labels = [label for _, label in pairs if label is not None]
    return torch.stack([x for x, _ in pairs]), torch.tensor(labels) if labels else None


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples to train on and samples held out."""

    name: str
    train: Source
    test: Source | None = None  # held out; None if there is a single sample
    classes: tuple[str, ...] = ()  # names of the classes, in the order of the labels
    oracle: Oracle | None = None  # distribution of the samples, where it is known
    exact: bool = True  # a resumed run is certain to see the same samples
    table: Table | None = None  # conversion of vectors back to rows of a table
    latents: Latents | None = None  # decoding of latents to images
    notices: tuple[str, ...] = ()  # lines to print before training
    rows: Split | None = None  # numbers of the samples of both parts in their file or folder
    paths: tuple[str, ...] = ()  # of the files of a folder, in its order

    def __repr__(self) -> str:
        size = " × ".join(map(str, self.train.shape))
        held_out = 0 if self.test is None else len(self.test)
        classes = f", {len(self.classes)} classes" * bool(self.classes)
        samples = f"{len(self.train)} samples of {size} numbers, {held_out} held out"
        return f"<Dataset {self.name!r:.200}: {samples}{classes}>"

    @classmethod
    def split(cls, name: str, source: Source, rows: Split, **attributes: Any) -> "Dataset":
        """Split a source into rows to train on and rows held out, if there are any."""
        held_out = source.part(rows[1]) if len(rows[1]) else None
        return cls(name, source.part(rows[0]), held_out, rows=rows, **attributes)

    @property
    def whole(self) -> Source:
        """All samples, in the order of their file or folder if it was split."""
        if self.test is None:
            return self.train
        if self.rows is None:
            return _join(self.train, self.test, torch.arange(len(self.train) + len(self.test)))
        return _join(self.train, self.test, torch.cat(self.rows).argsort())

    @property
    def kind(self) -> Literal["images", "latents", "signals", "volumes", "vectors"]:
        """Kind of a sample, by the number of its axes; vectors have any other number."""
        if self.latents is not None and len(self.train.shape) == 3:
            return "latents"
        kinds: dict[int, Literal["images", "signals", "volumes"]]
        kinds = {2: "signals", 3: "images", 4: "volumes"}
        return kinds.get(len(self.train.shape), "vectors")

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data on a device, except for sources not in memory and the oracle."""
        test = None if self.test is None else self.test.to(device)
        return replace(self, train=self.train.to(device), test=test)


def _join(one: Source, other: Source, order: Int[Tensor, "n"]) -> Source:
    """Return the samples of both sources, with their conditions if both have them."""
    if not (isinstance(one, Pairs) and isinstance(other, Pairs)):
        return Joined(one, other, order)
    pairs = ((name, part, other.conditions[name]) for name, part in one.conditions.items())
    conditions = {name: _join(part, rest, order) for name, part, rest in pairs}
    return Pairs(_join(one.source, other.source, order), conditions)


def check_share(share: float | Path) -> float:
    """Refuse a share of samples to hold out that leaves nothing on one side, or is a path."""
    if isinstance(share, Path):
        raise ValueError(f"held_out={share}: give a share, as 0.1; only images may be a folder")
    if not 0 < share < 1:
        raise ValueError(f"held_out={share}: give a share above 0 and below 1, as 0.1")
    return share


def hold_out(n: int, share: float | Path) -> Split:
    """Split n rows at random, the same each time; hold out at least one row if there are two."""
    share = check_share(share)
    order = permutation(0, n)
    train = n - min(max(round(n * share), 1), n - 1)
    return order[:train], order[train:]


def cell_centres(x: Tensor, levels: int) -> Tensor:
    """Return the middles (v + ½)/levels of 8-bit cells, in x's shape; floats stay as they are."""
    return (x.float() + 0.5) / levels if x.dtype == torch.uint8 else x.float()


def choose_condition(
    place: str, names: Sequence[str], condition: Sequence[str], parameters: Sequence[str]
) -> list[str]:
    """Return the names of the condition: those in `condition`, or all but the parameters."""
    check_names((*condition, *parameters), names, f"{place}: the column or array ")
    if condition and parameters:
        raise ValueError(
            f"condition={condition}, parameters={parameters}: give one of the two, because all but "
            "the parameters are the condition"
        )
    chosen = [
        name for name in names if name in condition or (parameters and name not in parameters)
    ]
    if (condition or parameters) and len(chosen) in (0, len(names)):
        raise ValueError(
            f"{place}: of {', '.join(names)} some have to be the condition, and others learned"
        )
    return chosen


def condition_shapes(source: Source) -> dict[str, list[int]]:
    """Return the shapes of the conditions by name, without labels."""
    others = source.conditions if isinstance(source, Pairs) else {}
    return {name: [*other.shape] for name, other in others.items()}


def all_samples(source: Source, limit: int | None = None) -> Float[Tensor, "n *shape"]:
    """Return the clean data in the model's units, or a fixed random choice of `limit` samples."""
    rows = choose_rows(source, limit)
    # a thousand at a time, so that little more than the result is in memory
    parts = torch.split(rows, 1000)
    return torch.cat([cell_centres(source.take(part)[0], source.levels) for part in parts])


def choose_rows(source: Source, limit: int | None = None) -> Int[Tensor, "n"]:
    """Return all rows, or a fixed random choice of `limit` of them, in order."""
    check_count(limit=limit)
    rows = torch.arange(len(source))
    if limit is not None and limit < len(source):
        rows = permutation(0, len(source))[:limit].sort().values
    return rows
