"""Networks and optimisers of this package, by what each learns from images in equal time.

Needs `--data IMAGES`, and takes `--minutes` for each. From the results the budget's candidates are
chosen. The judge is that of `peers --data`, a classifier fitted to the training part.
"""

from collections.abc import Callable, Iterator
from functools import partial

from scorefield.runs.budget import REFERENCES

from . import Setting
from .contest import Entry, contest, train_own
from .table import Table

PLAIN = ("network.blocks=1", "network.dropout=0")
PATCHES = (*PLAIN, "network.patch=2", "network.multipliers=[1,2]", "network.attention=[1]")
SMALL = (*PATCHES, "network.width=32")
MUON = ("training.optimizer=muon", "training.rate=3e-3")
RECIPES = {
    "UNet 16, Adam": ("network.blocks=1", "network.width=16"),
    "UNet 32, Adam": (*PLAIN, "network.width=32"),
    "UNet 32, Muon": (*PLAIN, "network.width=32", *MUON),
    "patches, UNet 32, Adam": (*SMALL, "training.rate=1e-3"),
    "patches, UNet 32, Muon": (*SMALL, *MUON),
    "patches, UNet 32, Muon, batch 32": (*SMALL, *MUON, "training.batch=32"),
    "patches, UNet 32, Muon, rate 6e-3": (*SMALL, *MUON, "training.rate=6e-3"),
    "patches, UNet 32, Muon, averaged targets": (*SMALL, *MUON, *REFERENCES),
    "patches, UNet 64, Muon": (*PATCHES, "network.width=64", *MUON),
    "DiT 192, Muon": ("network={kind: DiT, patch: 4, width: 192, blocks: 6, heads: 3}", *MUON),
}
"""Fields that differ from the preset photos."""


def run(setting: Setting) -> Iterator[Table]:
    if setting.data is None:
        raise ValueError("recipes trains on images: name them, as in --data pictures/")
    trainers: dict[str, Callable[..., Entry]] = {
        name: partial(train_own, network=fields) for name, fields in RECIPES.items()
    }
    yield contest(setting, trainers)
