"""The experiments of Song & Ermon 2019, one module each, and whether they came out as published.

Each runs at the paper's own scale, or at a small one on data that come with scikit-learn; the
modules say what is whose. Figures 2 and 3 are the paper's in either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from ..config import nearest
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
    known = [*EXPERIMENTS, "all"]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no experiment: {nearest(name, known)}")
    passed = dict[str, bool]()
    for name in EXPERIMENTS if "all" in names else names:
        same = ALIKE.get(name, name) if setting.scale == "small" else name
        if same != name:
            print(f"{name}: at the small scale it is {same}")
        if same not in passed:
            passed[same] = _run(same, setting)
    if len(passed) > 1:
        print("\n".join(f"{'PASS' if good else 'FAIL'}  {name}" for name, good in passed.items()))
    return all(passed.values())


def _run(name: str, setting: Setting) -> bool:
    print(f"{name}, {setting.scale} scale", flush=True)
    begun = time.perf_counter()
    try:
        found = EXPERIMENTS[name](setting)
    except FileNotFoundError as error:
        if setting.scale == "small":
            raise
        raise FileNotFoundError(  # the readers know of `train` only
            f"{error}. That is how it is said to `train`; to `reproduce` it is --data FOLDER, with "
            "the folders mnist, celeba and cifar10 in it"
        ) from error
    seconds = time.perf_counter() - begun
    place = found.save(name, setting, seconds)
    print(f"  {place / 'picture.png'}, {seconds:.0f} seconds")
    print(f"  scaled: {found.scaled or 'nothing, this is the paper’s setting'}")
    if setting.most is not None:
        print(f"  after {setting.most} steps only, which says nothing:")
    print(found, flush=True)
    return found.passed
