"""The flat list of modules in score_sde's checkpoints, and what its tensors show of the network.

Each module is a word, told by the names and shapes of its tensors, and a level of the network is a
pattern of words; see `score_sde_network`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .shared import checked

UNIT = re.compile(r"all_modules\.(\d+)\.(.+)")
LADDER = "sigmas"
LETTERS = {"block": "b", "attention": "a", "resample": "r", "combine": "m"}
LEVEL = re.compile(r"(?P<stages>(?:ba?)+)(?:[dr](?P<join>[mr]?))?")
"""A level on the way down: blocks with or without attention, a shrinking block (d) or convolution,
and the path by which the image enters."""


@dataclass(frozen=True)
class Unit:
    """One numbered module of the authors' list: its tensors by the names they have in it."""

    number: int
    tensors: dict[str, Tensor]

    @property
    def kind(self) -> str:
        """Which of `NAMES` it is."""
        parts = {name.split(".")[0]: tensor for name, tensor in self.tensors.items()}
        if "weight" in parts:
            return {1: "norm", 2: "linear", 4: "conv"}.get(parts["weight"].ndim, "unknown")
        for mark, kind in {"W": "fourier", "Conv2d_0": "resample", "NIN_3": "attention"}.items():
            if mark in parts:
                return kind
        if "Conv_0.weight" not in self.tensors:
            return "unknown"
        if "Conv_1" in parts:
            return "block"
        return "combine" if self.tensors["Conv_0.weight"].shape[-1:] == (1,) else "resample"

    def has(self, part: str) -> bool:
        """Whether a part is there."""
        return any(name.split(".")[0] == part for name in self.tensors)

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of a block's, or a convolution's, input and output."""
        name = "Conv_0.weight" if self.kind == "block" else "weight"
        weight = checked(f"all_modules.{self.number}.{name}", self.tensors[name], ndim=4)
        return weight.shape[1], weight.shape[0]

    @property
    def shrinks(self) -> bool:
        """Whether a block of the way down halves the size: a shortcut that changes no width."""
        return self.has("Conv_2") and self.channels[0] == self.channels[1]


def units_of(model: Mapping[str, Tensor]) -> tuple[list[Unit], Tensor | None]:
    """The numbered modules in order, and the ladder."""
    numbered: dict[int, dict[str, Tensor]] = {}
    ladder, strange = None, []
    for key, tensor in model.items():
        if match := UNIT.fullmatch(key):
            numbered.setdefault(int(match[1]), {})[match[2]] = tensor
        elif key == LADDER:
            ladder = tensor
        else:
            strange.append(key)
    units = [Unit(number, tensors) for number, tensors in sorted(numbered.items())]
    strange += [
        f"all_modules.{unit.number}.{name}"
        for unit in units
        if unit.kind == "unknown"
        for name in unit.tensors
    ]
    if strange or not units:
        raise ValueError(f"not a score_sde network, by its keys {strange or list(model)}")
    return units, ladder


def arguments_seen(units: list[Unit]) -> dict[str, Any]:
    """The arguments of `UNet` that the tensors show."""
    kinds = [unit.kind for unit in units]
    fourier, start = kinds[0] == "fourier", kinds.index("conv") if "conv" in kinds else 0
    if kinds[:start] != ["fourier"] * fourier + ["linear"] * 2:
        raise ValueError(f"not a score_sde UNet: its modules begin with {kinds[:4]}")
    channels, width = units[start].channels
    form = "biggan" if any(unit.has("Conv_2") for unit in units) else "ddpm"
    down, up = _halves(units[start + 1 :], width)
    return {
        "channels": channels,
        "width": width,
        "form": form,
        "embedding": "fourier" if fourier else "sinusoidal",
        "progressive_output": _output(up, channels),
        **_seen_down(down, width),
    }


def _halves(units: list[Unit], width: int) -> tuple[list[Unit], list[Unit]]:
    """The way down, without the middle's three modules, and the way up.

    The way up starts at the first block that takes other channels than the one before it gives.
    """
    now, joined = width, False
    for i, unit in enumerate(units):
        if unit.kind == "block":
            if unit.channels[0] != now and not joined:
                return units[: i - 3], units[i:]
            now = unit.channels[1]
        joined = unit.kind == "combine"
    raise ValueError("not a score_sde UNet: no block takes what was kept on the way down")


def _seen_down(units: list[Unit], width: int) -> dict[str, Any]:
    """What the way down shows: each unit is a letter, and a level a pattern of them."""
    text = "".join("d" if unit.shrinks else LETTERS.get(unit.kind, "?") for unit in units)
    levels = list(re.finditer(LEVEL, text))
    stages = [level["stages"] for level in levels]
    blocks = stages[0].count("b") if stages else 0
    joins = {level["join"] for level in levels[:-1]}
    plain = all(stage in ("b" * blocks, "ba" * blocks) for stage in stages)
    if "".join(level[0] for level in levels) != text or len(joins) > 1 or not plain:
        raise ValueError(f"not the levels of a score_sde UNet: {[unit.kind for unit in units]}")
    outs = [
        units[level.end("stages") - 1 - ("a" in level["stages"])].channels[1] for level in levels
    ]
    if any(out % width for out in outs):
        raise ValueError(f"the levels have {outs} channels, which {width} does not divide")
    join = {"m": "skip", "r": "residual"}.get(next(iter(joins), ""), "none")
    paths = [units[level.end() - 1] for level in levels[:-1] if join != "none"]
    after = [units[level.end()].channels[0] for level in levels[:-1]]
    doubled = join == "skip" and after[0] == 2 * outs[0]
    fir = {"fir": paths[0].has("Conv2d_0")} if join == "residual" else {}
    return {
        "multipliers": tuple(out // width for out in outs),
        "blocks": blocks,
        "attention": tuple(i for i, stage in enumerate(stages) if "a" in stage),
        "progressive_input": join,
        "combine": "cat" if doubled else "sum",
        **fir,
    }


def _output(up: list[Unit], channels: int) -> str:
    """How the image leaves: by the first normalisation that stands alone, and its convolution."""
    kinds = [unit.kind for unit in up]
    first = kinds.index("norm") if "norm" in kinds else len(kinds)
    if first >= len(kinds) - 2:
        return "none"
    image = kinds[first + 1] == "conv" and up[first + 1].channels[1] == channels
    return "skip" if image else "residual"
