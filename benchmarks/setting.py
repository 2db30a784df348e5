"""What a measurement is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Setting:
    """How something is measured.

    Attributes:
        out: A folder for what is found, and for models that are trained on the way.
        quick: Only to see whether it runs.
        only: Parts of names; what has none of them is left out.
        compile: Whether torch.compile is measured too.
        device: Where networks run.
        threads: Of a process.
        seed: Of everything random.
    """

    out: Path
    quick: bool = False
    only: tuple[str, ...] = ()
    compile: bool = True
    device: str = "cpu"
    threads: int = 1
    seed: int = 0

    @property
    def repeats(self) -> int:
        """Turns of each way."""
        return 1 if self.quick else 7

    def chosen(self, items: Mapping[str, Item]) -> dict[str, Item]:
        """Those that are asked for."""
        found = {
            name: item
            for name, item in items.items()
            if not self.only or any(part in name for part in self.only)
        }
        if not found:
            raise ValueError(f"--only {' '.join(self.only)}: there are {'; '.join(items)}")
        return found
