"""Measure speed: `python -m benchmarks step`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import tyro
from tyro.conf import Positional, arg

from scorefield.cli import startup
from scorefield.runs.resolve import choose_device

from . import Setting, bench


def main(
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="WHAT ...")],
    *,
    only: tuple[str, ...] = (),
    out: Path = Path("runs/bench"),
    quick: bool = False,
    compile: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Measure how fast this machine trains and samples, compared with other packages.

    Tables are printed, and written as JSON with a description of the machine. Run nothing else
    meanwhile.

    Args:
        names: what to measure, or all.
        only: parts of the names of networks, models, series or tables; others are left out.
        out: directory for the results, and for models that are trained on the way.
        quick: only check that it runs; the numbers mean nothing.
        compile: measure torch.compile too, which takes minutes to prepare for each network.
        seed: seed of models and samples.
        device: cpu, cuda or mps.
    """
    setting = Setting(
        out,
        quick=quick,
        only=only,
        compile=compile,
        device=str(choose_device(device)),
        threads=torch.get_num_threads(),
        seed=seed,
    )
    bench(names, setting)


if __name__ == "__main__":
    startup.prepare()
    tyro.cli(main)
