"""The experiments of Song & Ermon 2019, one module each, with PASS or FAIL against a statement.

Each runs at the paper's own scale, or at a small one on data that come with scikit-learn. A module
says which numbers are the paper's, its code's or ours. Figures 2 and 3 have one scale.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ..data import load_data
from ..evaluate.features import weights_file
from ..runs.config import Data
from ..spelling import spelling_hint
from . import fig1, fig2, fig3, fig4, fig5, fig6, fig7, fig9, table1
from .finding import PAPER_DATA, Finding, Setting

__all__ = ["EXPERIMENTS", "Finding", "Setting", "run_experiments"]

COLOUR_DATA = ("celeba", "cifar10")

EXPERIMENTS: dict[str, Callable[[Setting], Finding]] = {
    "fig1": fig1.run,
    "fig2": fig2.run,
    "fig3": fig3.run,
    "fig4": partial(fig4.run, data=PAPER_DATA),
    "fig5": partial(fig5.run, data=PAPER_DATA),
    "fig6": partial(fig6.run, data=COLOUR_DATA),
    "fig7": partial(fig7.run, data=PAPER_DATA),
    "fig8": partial(fig7.run, data=PAPER_DATA, paths=True),
    "fig9": partial(fig9.run, data=COLOUR_DATA),
    "fig10": partial(fig9.run, data=COLOUR_DATA, features=True),
    "fig11": partial(fig5.run, data=("mnist",)),
    "fig12": partial(fig5.run, data=("celeba",)),
    "fig13": partial(fig5.run, data=("cifar10",)),
    "fig14": partial(fig4.run, data=("celeba",)),
    "fig15": partial(fig4.run, data=("cifar10",)),
    "fig16": partial(fig6.run, data=("celeba",)),
    "fig17": partial(fig6.run, data=("cifar10",)),
    "table1": table1.run,
}
DATA_OF_EXPERIMENT = {
    name: getattr(run, "keywords", {}).get("data", ()) for name, run in EXPERIMENTS.items()
} | {"fig1": ("cifar10",), "table1": ("cifar10",)}
NEEDS_INCEPTION = {"fig10", "table1"}
SAME_AT_SMALL_SCALE = (
    dict.fromkeys(("fig11", "fig12", "fig13"), "fig5")
    | dict.fromkeys(("fig14", "fig15"), "fig4")
    | dict.fromkeys(("fig16", "fig17"), "fig6")
)
"""Figures that differ from another by their data alone, which at the small scale are digits."""


def run_experiments(names: Sequence[str], setting: Setting) -> bool:
    """Run experiments one after another, print what they find, and return True if all pass."""
    choices, start = [*EXPERIMENTS, "all"], time.perf_counter()
    for name in names:
        if name not in choices:
            raise ValueError(f"{name!r} is not an experiment: {spelling_hint(name, choices)}")
    names = list(EXPERIMENTS) if "all" in names else list(dict.fromkeys(names))
    check_inputs(names, setting)
    passed = dict[str, bool]()
    for name in names:
        same = SAME_AT_SMALL_SCALE.get(name, name) if setting.scale == "small" else name
        if same != name:
            print(f"{name}: at the small scale it is {same}")
        if same not in passed:
            passed[same] = run_experiment(same, setting)
        passed[name] = passed[same]
    if len(names) > 1:
        print("\n".join(f"{'PASS' if passed[name] else 'FAIL'}  {name}" for name in names))
        minutes, cores = (time.perf_counter() - start) / 60, os.cpu_count()
        print(f"{setting.scale} scale, {minutes:.1f} minutes on {setting.device}, {cores} cores")
    return all(passed.values())


def check_inputs(names: Sequence[str], setting: Setting) -> None:
    """Refuse missing data and weights before an experiment runs for days."""
    if setting.scale == "small":
        if setting.data is not None or setting.inception is not None:
            raise ValueError("--data and --inception are for --scale paper: small has digits")
        return
    for name in sorted({data for each in names for data in DATA_OF_EXPERIMENT[each]}):
        source = setting.source(Data(name))
        try:
            load_data(source.source, **source.options)
        except FileNotFoundError as error:
            place = source.options.get("root", "its default folder")
            raise FileNotFoundError(
                f"{name} is not in {place}: name by --data a folder that holds the folders "
                f"{', '.join(PAPER_DATA)}"
            ) from error
    if NEEDS_INCEPTION.intersection(names):
        weights_file(setting.inception)


def run_experiment(name: str, setting: Setting) -> bool:
    """Run one experiment, save and print what it finds, and return True if it passes."""
    print(f"{name}, {setting.scale} scale", flush=True)
    start = time.perf_counter()
    finding = EXPERIMENTS[name](setting)
    if setting.most is not None:
        limit = f"at most {setting.most} steps, samples and images per batch, to see that it runs"
        finding = replace(finding, scaled="; ".join(filter(None, (limit, finding.scaled))))
    seconds = time.perf_counter() - start
    folder = finding.save(name, setting, seconds)
    print(f"  {folder / 'picture.png'}, {seconds:.0f} seconds")
    print(f"  scaled: {finding.scaled or 'nothing, this is the paper’s setting'}")
    print(finding, flush=True)
    return finding.passed
