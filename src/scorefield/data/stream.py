"""Samples that come one after another and cannot be asked for by index.

A run that is resumed goes on at about the same place. That it sees what it would have seen cannot
be promised, for the order is the provider's, and what is provided may have changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from .source import Arrays

Taken: TypeAlias = "tuple[Tensor, Tensor | None]"


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples in an order that is not known.

    As a `Source`, for moments and ladders, it is its head.
    """

    head: Arrays
    """Some samples, in memory."""
    rows: Callable[[int], Iterator[Any]]
    """All of them from a position on, again and again, as they come."""
    decode: Callable[[Any], tuple[Tensor, int | None]]
    """The pixels of a row, and its label."""

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample."""
        return self.head.shape

    @property
    def levels(self) -> int:
        """How many values an 8-bit sample can take."""
        return self.head.levels

    def __len__(self) -> int:
        return len(self.head)

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, Int[Tensor, "batch"] | None]:
        """Samples of the head, and their labels."""
        return self.head.take(index)

    def to(self, device: torch.device | str) -> Stream:
        """Itself: what streams is nowhere."""
        return self

    def batches(self, start: int, size: int, share: range) -> Iterator[Taken]:
        """The rows of a share of each batch, from a position on; others are not decoded."""
        rows = self.rows(start)
        while True:
            batch = [next(rows) for _ in range(size)]
            yield stacked([self.decode(batch[i]) for i in share])


def stacked(pairs: list[tuple[Tensor, int | None]]) -> Taken:
    """Samples and labels, one by one, as tensors of all."""
    labels = [label for _, label in pairs if label is not None]
    return torch.stack([x for x, _ in pairs]), torch.tensor(labels) if labels else None
