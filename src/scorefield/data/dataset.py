"""A data set: what is trained on, and what is held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from ..oracles import Oracle
from .source import Source
from .table import Table

KINDS: dict[int, Literal["images", "signals"]] = {2: "signals", 3: "images"}
"""By the axes of a sample."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples to train on and, held out for good, samples to test on."""

    name: str
    train: Source
    test: Source | None = None
    """None if there is a single sample."""
    classes: int = 0
    """How many labels there are, 0 if none."""
    oracle: Oracle | None = None
    """The law of the samples, where it is known."""
    skipped: tuple[str, ...] = ()
    """The files that could not be read and were left out."""
    exact: bool = True
    """Whether a run that is stopped and resumed is certain to see what it would have seen."""

    table: Table | None = None
    """The way back from vectors to the rows of a table."""

    @property
    def kind(self) -> Literal["images", "signals", "vectors"]:
        """What one sample is: (channels, height, width), (channels, length), or anything else."""
        return KINDS.get(len(self.train.shape), "vectors")

    def to(self, device: torch.device | str) -> Dataset:
        """The same on a device, but for what is too large, and for the oracle."""
        test = None if self.test is None else self.test.to(device)
        return replace(self, train=self.train.to(device), test=test)
