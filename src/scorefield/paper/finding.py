"""What an experiment is told, and what it finds: numbers, a picture, and whether they agree."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from matplotlib.figure import Figure
from PIL import Image

from ..disk import write_file as write
from ..runs.config import Data
from ..show import images

Scale = Literal["small", "paper"]


@dataclass(frozen=True)
class Setting:
    """How the experiments are run.

    Attributes:
        out: The directory of all; each has a folder in it.
        scale: The paper's, or minutes on data that nobody has to download.
        seed: Of everything random.
        data: A folder with the paper's data sets in folders mnist, cifar10 and celeba; where they
            are looked for otherwise, if not given.
        device: Where networks run.
        most: Of anything, be it steps, samples or a batch, to see in a moment whether it runs.
        inception: The weights of the network of FID, at the paper's scale; where other programs
            keep them, if not given.
    """

    out: Path
    scale: Scale = "small"
    seed: int = 0
    data: Path | None = None
    device: str = "cpu"
    most: int | None = None
    inception: Path | None = None

    def steps(self, wanted: int) -> int:
        """As many as wanted, but for a glance."""
        return wanted if self.most is None else min(wanted, self.most)

    def samples(self, wanted: int) -> int:
        """As many as wanted, but for a glance; two at least, for less have no variance."""
        return wanted if self.most is None else min(wanted, max(self.most, 2))

    def source(self, data: Data) -> Data:
        """The data, one of the paper's from where the user has them."""
        if data.source not in PUBLISHED or self.data is None:
            return data
        root = (self.data / data.source).expanduser().resolve()  # as a run keeps it
        return replace(data, options={**data.options, "root": str(root)})


PUBLISHED = ("mnist", "cifar10", "celeba")
"""The paper's data sets."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What came of an experiment."""

    statement: str
    """What counts as reproduced."""
    numbers: Mapping[str, float]
    passed: bool
    picture: Image.Image
    scaled: str
    """What differs from the paper's setting, empty if nothing does."""

    def save(self, name: str, setting: Setting, seconds: float) -> Path:
        """Write result.json and picture.png into the experiment's folder."""
        place = setting.out / name
        about = {
            "experiment": name,
            "statement": self.statement,
            "passed": self.passed,
            "numbers": {k: v if math.isfinite(v) else None for k, v in self.numbers.items()},
            "scale": setting.scale,
            "scaled": self.scaled,
            "seed": setting.seed,
            "most": setting.most,
            "seconds": round(seconds, 1),
            "scorefield": version("scorefield"),
        }
        write(place / "picture.png", images.png(self.picture, about))
        write(place / "result.json", json.dumps(about, indent=2, ensure_ascii=False).encode())
        return place

    def __str__(self) -> str:
        width = max(map(len, self.numbers), default=0)
        lines = [f"  {name:{width}}  {value:.4g}" for name, value in self.numbers.items()]
        verdict = "PASS" if self.passed else "FAIL"
        return "\n".join([*lines, f"  {verdict}: {self.statement}"])


def drawn(figure: Figure) -> Image.Image:
    """A figure as pixels."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return Image.open(content).convert("RGB")


def stacked(sheets: Sequence[Image.Image], *, gap: int = 12) -> Image.Image:
    """Pictures beside each other, on white."""
    if len(sheets) == 1:
        return sheets[0]
    width = sum(sheet.width + gap for sheet in sheets) - gap
    whole = Image.new("RGB", (width, max(sheet.height for sheet in sheets)), "white")
    left = 0
    for sheet in sheets:
        whole.paste(sheet, (left, 0))
        left += sheet.width + gap
    return whole


@contextmanager
def threads(number: int | None = None) -> Iterator[None]:
    """So many threads for a while, and in the end those of before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
