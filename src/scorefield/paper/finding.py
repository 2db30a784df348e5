"""The setting that the paper's experiments share, and what each of them returns."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from PIL import Image

from ..disk import write_file
from ..runs.config import Data
from ..show import images, plots
from ..show.text import text_table

PAPER_DATA = ("mnist", "celeba", "cifar10")


@dataclass(frozen=True)
class Setting:
    """The setting of all experiments.

    The scale "paper" is the published setting, "small" takes minutes and needs no download.
    """

    out: Path  # directory of the results; each experiment has a folder in it
    scale: Literal["small", "paper"] = "small"
    seed: int = 0  # of everything random
    data: Path | None = None  # folder of mnist, celeba and cifar10; None: where `load_data` looks
    device: str = "cpu"  # where networks run
    most: int | None = None  # limit of steps, samples and batch sizes, to check that all of it runs
    inception: Path | None = None  # FID's weights; None: those that other programs downloaded

    def steps(self, wanted: int) -> int:
        """Return the number of steps within the limit."""
        return wanted if self.most is None else min(wanted, self.most)

    def samples(self, wanted: int) -> int:
        """Return the number of samples within the limit, at least two: one has no variance."""
        return wanted if self.most is None else min(wanted, max(self.most, 2))

    def source(self, data: Data) -> Data:
        """Return the data, read from the user's folder if they are the paper's."""
        if data.source not in PAPER_DATA or self.data is None:
            return data
        root = (self.data / data.source).expanduser().resolve()  # as a run's configuration has it
        return replace(data, options={**data.options, "root": str(root)})


@dataclass(frozen=True, eq=False)
class Finding:
    """The result of an experiment."""

    statement: str  # the criterion that counts as reproduced
    numbers: Mapping[str, float]  # the measurements, by name
    passed: bool  # the numbers meet the criterion
    picture: Image.Image | Figure
    scaled: str = ""  # differences from the paper's setting, empty if there are none

    def save(self, name: str, setting: Setting, seconds: float) -> Path:
        """Write result.json and picture.png into the experiment's folder, and return it."""
        folder = setting.out / name
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
        write_file(folder / "picture.png", images.png(as_image(self.picture), about))
        write_file(folder / "result.json", json.dumps(about, indent=2, ensure_ascii=False).encode())
        return folder

    def __str__(self) -> str:
        rows = [[name, f"{value:.4g}"] for name, value in self.numbers.items()]
        lines = text_table(["measured", "value"], rows).split("\n")
        verdict = f"{'PASS' if self.passed else 'FAIL'}: {self.statement}"
        return "\n".join(f"  {line}" for line in [*lines, verdict])


def as_image(picture: Image.Image | Figure) -> Image.Image:
    """Return an image as it is, and a figure in pixels."""
    if isinstance(picture, Figure):
        return Image.open(io.BytesIO(plots.as_png(picture, dpi=100))).convert("RGB")
    return picture


def side_by_side(pictures: Sequence[Image.Image | Figure]) -> Image.Image:
    """Return pictures next to each other, on white."""
    sheets, gap = [as_image(picture) for picture in pictures], 12
    width, height = sum(s.width + gap for s in sheets) - gap, max(s.height for s in sheets)
    whole = Image.new("RGB", (width, height), "white")
    left = 0
    for sheet in sheets:
        whole.paste(sheet, (left, 0))
        left += sheet.width + gap
    return whole
