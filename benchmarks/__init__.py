"""Benchmarks of speed, memory and quality per cost, on this machine and next to other packages.

Each is a module with a function `run` from a `Setting` to tables. This module loads no torch, so
that `--help` answers at once.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scorefield.values import spelling_hint

BENCHMARKS = (
    "step",
    "frontier",
    "peers",
    "accuracy",
    "scale",
    "startup",
    "studio",
    "posteriors",
    "tuning",
    "loader",
    "recipes",
    "short",
    "gpu",
)
RESULTS = Path(__file__).parent / "results"
"""The published measurements, a file per benchmark."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Setting:
    """Options of all benchmarks.

    Attributes:
        only: Parts of names of networks, models, series or tables; others are left out.
        out: Directory for the results, and for the models that are trained for them.
        quick: Only check that it runs; the numbers mean nothing.
        compile: Measure torch.compile too, which takes minutes for each network.
        seed: Seed of models and samples.
        device: Where networks run: auto, cpu, cuda or mps.
        data: Images, by a name or a path, on which peers, recipes and short train.
        minutes: Time of that training for each, in peers and recipes.
    """

    only: tuple[str, ...] = ()
    out: Path = Path("runs/bench")
    quick: bool = False
    compile: bool = True
    seed: int = 0
    device: str = "cpu"
    data: str | None = None
    minutes: float = 10.0

    @property
    def repeats(self) -> int:
        """Number of turns of each method."""
        return 1 if self.quick else 7

    def select(self, items: Mapping[str, Item]) -> dict[str, Item]:
        """Return the items whose names contain one of `only`; all if it is empty."""
        for part in self.only:
            if not any(part in name for name in items):
                words = dict.fromkeys(word for name in items for word in name.split(", "))
                raise ValueError(f"--only {part}: {spelling_hint(part, words)}")
        return {k: v for k, v in items.items() if any(part in k for part in self.only or ("",))}


def describe(name: str) -> str:
    """Return a benchmark's docstring without importing it."""
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)) or ""
