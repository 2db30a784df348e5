"""The experiments of Song & Ermon 2019, one module each, with PASS or FAIL against a statement.

Each runs at the paper's own scale, or at a small one on data that come with scikit-learn. A module
says which numbers are the paper's, its code's or ours, and its `STATEMENT` is the criterion.
Figures 2 and 3 have one scale.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ..evaluate.features import weights_file
from ..values import spelling_hint
from . import fig1, fig2, fig3, fig4, fig5, fig6, fig7, fig9, table1
from .finding import PAPER_DATA, Finding, Setting
from .models import OnModels, PaperModel

__all__ = ["EXPERIMENTS", "Finding", "Setting", "run_experiments"]

COLOUR_DATA = ("celeba", "cifar10")

EXPERIMENTS: dict[str, Callable[[Setting], Finding]] = {
    "fig1": fig1.run,
    "fig2": fig2.run,
    "fig3": fig3.run,
    "fig4": OnModels(fig4.run, PAPER_DATA),
    "fig5": OnModels(fig5.run, PAPER_DATA),
    "fig6": OnModels(fig6.run, COLOUR_DATA),
    "fig7": OnModels(fig7.run, PAPER_DATA),
    "fig8": OnModels(partial(fig7.run, paths=True), PAPER_DATA),
    "fig9": OnModels(fig9.run, COLOUR_DATA),
    "fig10": OnModels(partial(fig9.run, features=True), COLOUR_DATA),
    "fig11": OnModels(fig5.run, ("mnist",)),
    "fig12": OnModels(fig5.run, ("celeba",)),
    "fig13": OnModels(fig5.run, ("cifar10",)),
    "fig14": OnModels(fig4.run, ("celeba",)),
    "fig15": OnModels(fig4.run, ("cifar10",)),
    "fig16": OnModels(fig6.run, ("celeba",)),
    "fig17": OnModels(fig6.run, ("cifar10",)),
    "table1": OnModels(table1.run, ("cifar10",)),
}
"""Experiments by the figure or table of the paper that they repeat."""
NEEDS_INCEPTION = {"fig10", "table1"}


def run_experiments(names: Sequence[str], setting: Setting) -> bool:
    """Run experiments one after another, print what they find, and return True if all pass.

    Experiments that differ by their data alone are the same at the small scale, and run once.
    """
    choices, start = [*EXPERIMENTS, "all"], time.perf_counter()
    for name in names:
        if name not in choices:
            raise ValueError(f"{name!r} is not an experiment: {spelling_hint(name, choices)}")
    names = list(EXPERIMENTS) if "all" in names else list(dict.fromkeys(names))
    check_inputs(names, setting)
    passed, first = dict[str, bool](), dict[object, str]()
    for name in names:
        small = setting.scale == "small"
        same = first.setdefault(getattr(EXPERIMENTS[name], "run", name) if small else name, name)
        if same != name:
            print(f"{name}: at the small scale it is {same}")
        passed[name] = passed[same] if same != name else run_experiment(name, setting)
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
    needed = {name: getattr(EXPERIMENTS[name], "data", ()) for name in names}
    needed |= {"fig1": ("cifar10",)} if "fig1" in names else {}
    for name in sorted({data for sets in needed.values() for data in sets}):
        model = PaperModel(setting, name)
        try:
            _ = model.dataset
        except FileNotFoundError as error:
            place = model.experiment.data.options.get("root", "its default folder")
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
