"""The experiments of Song & Ermon 2019, one module each, and whether they came out as published.

Each runs at the paper's own scale, or at a small one on data that come with scikit-learn; the
modules say what is whose. Figures 2 and 3 are the paper's in either.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ..data import load_data
from ..evaluate.features import weights_file
from ..runs.config import Data, nearest
from . import fig1, fig2, fig3, fig4, fig5, fig6, fig7, fig9, table1
from .finding import Finding, Scale, Setting

__all__ = ["EXPERIMENTS", "Finding", "Scale", "Setting", "reproduce"]

ALL = ("mnist", "celeba", "cifar10")
COLOUR = ("celeba", "cifar10")

EXPERIMENTS: dict[str, Callable[[Setting], Finding]] = {
    "fig1": fig1.run,
    "fig2": fig2.run,
    "fig3": fig3.run,
    "fig4": partial(fig4.run, data=ALL),
    "fig5": partial(fig5.run, data=ALL),
    "fig6": partial(fig6.run, data=COLOUR),
    "fig7": partial(fig7.run, data=ALL),
    "fig8": partial(fig7.run_way, data=ALL),
    "fig9": partial(fig9.run, data=COLOUR),
    "fig10": partial(fig9.run_features, data=COLOUR),
    "fig11": partial(fig5.run, data=("mnist",)),
    "fig12": partial(fig5.run, data=("celeba",)),
    "fig13": partial(fig5.run, data=("cifar10",)),
    "fig14": partial(fig4.run, data=("celeba",)),
    "fig15": partial(fig4.run, data=("cifar10",)),
    "fig16": partial(fig6.run, data=("celeba",)),
    "fig17": partial(fig6.run, data=("cifar10",)),
    "table1": table1.run,
}
"""What `scorefield reproduce` takes."""

NEEDS = {
    name: getattr(run, "keywords", {}).get("data", ()) for name, run in EXPERIMENTS.items()
} | {"fig1": ("cifar10",), "table1": ("cifar10",)}
"""The data sets of an experiment, at the paper's scale."""
INCEPTION = {"fig10", "table1"}
"""Experiments in the features of an Inception network, there."""

ALIKE = {
    "fig11": "fig5",
    "fig12": "fig5",
    "fig13": "fig5",
    "fig14": "fig4",
    "fig15": "fig4",
    "fig16": "fig6",
    "fig17": "fig6",
}
"""What differs by its data alone, and so not at the small scale, where all data are digits."""


def reproduce(names: Sequence[str], setting: Setting) -> bool:
    """Run experiments one after another, print what they found, and tell whether all passed."""
    known, begun = [*EXPERIMENTS, "all"], time.perf_counter()
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no experiment: {nearest(name, known)}")
    names = list(EXPERIMENTS) if "all" in names else list(dict.fromkeys(names))
    check(names, setting)
    passed = dict[str, bool]()
    for name in names:
        same = ALIKE.get(name, name) if setting.scale == "small" else name
        if same != name:
            print(f"{name}: at the small scale it is {same}")
        if same not in passed:
            passed[same] = _run(same, setting)
        passed[name] = passed[same]
    if len(names) > 1:
        print("\n".join(f"{'PASS' if passed[name] else 'FAIL'}  {name}" for name in names))
        minutes, cores = (time.perf_counter() - begun) / 60, os.cpu_count()
        print(f"{setting.scale} scale, {minutes:.1f} minutes on {setting.device}, {cores} cores")
    return all(passed.values())


def check(names: Sequence[str], setting: Setting) -> None:
    """Look for what experiments need, before any of them takes days."""
    if setting.scale == "small":
        if setting.data is not None or setting.inception is not None:
            raise ValueError("--data and --inception are of --scale paper: small has digits")
        return
    for data in sorted({data for name in names for data in NEEDS.get(name, ())}):
        source = setting.source(Data(data))
        try:
            load_data(source.source, **source.options)
        except FileNotFoundError as error:
            # the readers tell of `train` how it is told
            missing = re.split(": name its folder|, then name its folder", str(error))[0]
            raise FileNotFoundError(
                f"{missing}; name by --data a folder with the folders {', '.join(ALL)} in it"
            ) from error
    if INCEPTION.intersection(names):
        weights_file(setting.inception)


def _run(name: str, setting: Setting) -> bool:
    print(f"{name}, {setting.scale} scale", flush=True)
    begun = time.perf_counter()
    found = EXPERIMENTS[name](setting)
    if setting.most is not None:
        less = f"at most {setting.most} of anything, be it steps, samples or a batch"
        found = replace(found, scaled="; ".join(filter(None, (less, found.scaled))))
    seconds = time.perf_counter() - begun
    place = found.save(name, setting, seconds)
    print(f"  {place / 'picture.png'}, {seconds:.0f} seconds")
    print(f"  scaled: {found.scaled or 'nothing, this is the paper’s setting'}")
    if setting.most is not None:
        print(f"  after {setting.most} steps only, which says nothing:")
    print(found, flush=True)
    return found.passed
