"""The flat list of modules in score_sde's checkpoints, and the arguments of `UNet` it implies.

The kind of a module follows from the names and shapes of its tensors, and a level of the network is
a pattern of kinds; see `score_sde_network`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .shared import Weights, check_tensor

MODULE_KEY = re.compile(r"all_modules\.(\d+)\.(.+)")
LADDER_KEY = "sigmas"

LETTERS = {"block": "b", "attention": "a", "resample": "r", "combine": "m"}
LEVEL = re.compile(r"(?P<stages>(?:ba?)+)(?:[dr](?P<join>[mr]?))?")
"""A level of the downward path: blocks with or without attention, then a block (d) or convolution
(r) that halves the size, then the path by which the image enters."""


@dataclass(frozen=True)
class NumberedModule:
    """A numbered module of the official list, and its tensors by their names in it."""

    number: int
    tensors: dict[str, Tensor]

    @property
    def keys(self) -> list[str]:
        """Full names of its tensors."""
        return [f"all_modules.{self.number}.{name}" for name in self.tensors]

    @property
    def kind(self) -> str:
        """Key of `PART_NAMES`, or "unknown"."""
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
        """Return True if the module has a part of this name."""
        return any(name.split(".")[0] == part for name in self.tensors)

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels of a block or a convolution."""
        name = "Conv_0.weight" if self.kind == "block" else "weight"
        weight = check_tensor(f"all_modules.{self.number}.{name}", self.tensors[name], ndim=4)
        return weight.shape[1], weight.shape[0]

    @property
    def shrinks(self) -> bool:
        """True if a block of the downward path halves the size: its shortcut keeps the width."""
        return self.has("Conv_2") and self.channels[0] == self.channels[1]


def numbered_modules(weights: Weights) -> tuple[list[NumberedModule], Tensor | None]:
    """Return the modules in order, and the ladder."""
    numbered: dict[int, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        if match := MODULE_KEY.fullmatch(key):
            numbered.setdefault(int(match[1]), {})[match[2]] = tensor
    modules = [NumberedModule(number, tensors) for number, tensors in sorted(numbered.items())]
    unknown = [key for key in weights if not MODULE_KEY.fullmatch(key) and key != LADDER_KEY]
    unknown += [key for module in modules if module.kind == "unknown" for key in module.keys]
    if unknown or not modules:
        raise ValueError(f"not a score_sde network, judged by its keys {unknown or list(weights)}")
    return modules, weights.get(LADDER_KEY)


def infer_arguments(modules: list[NumberedModule]) -> dict[str, Any]:
    """Return the arguments of `UNet` that the tensors determine."""
    kinds = [module.kind for module in modules]
    fourier, start = kinds[0] == "fourier", kinds.index("conv") if "conv" in kinds else 0
    if kinds[:start] != ["fourier"] * fourier + ["linear"] * 2:
        raise ValueError(f"not a score_sde UNet: its modules start with {kinds[:4]}")
    channels, width = modules[start].channels
    down, up = _split_paths(modules[start + 1 :], width)
    return {
        "channels": channels,
        "width": width,
        "form": "biggan" if any(module.has("Conv_2") for module in modules) else "ddpm",
        "embedding": "fourier" if fourier else "sinusoidal",
        "progressive_output": _infer_output(up, channels),
        **_infer_levels(down, width),
    }


def _split_paths(
    modules: list[NumberedModule], width: int
) -> tuple[list[NumberedModule], list[NumberedModule]]:
    """Return the downward path, without the three modules in the middle, and the upward path.

    The upward path starts at the first block whose input is wider than the output before it.
    """
    current, joined = width, False
    for i, module in enumerate(modules):
        if module.kind == "block":
            if module.channels[0] != current and not joined:
                return modules[: i - 3], modules[i:]
            current = module.channels[1]
        joined = module.kind == "combine"
    raise ValueError("not a score_sde UNet: no block takes features of the downward path")


def _infer_levels(modules: list[NumberedModule], width: int) -> dict[str, Any]:
    """Infer from the downward path: each module is a letter, each level a pattern of letters."""
    text = "".join("d" if m.shrinks else LETTERS.get(m.kind, "?") for m in modules)
    levels = list(re.finditer(LEVEL, text))
    stages = [level["stages"] for level in levels]
    blocks = stages[0].count("b") if stages else 0
    joins = {level["join"] for level in levels[:-1]}
    regular = all(stage in ("b" * blocks, "ba" * blocks) for stage in stages)
    if "".join(level[0] for level in levels) != text or len(joins) > 1 or not regular:
        raise ValueError(f"not the levels of a score_sde UNet: {[m.kind for m in modules]}")
    outs = [
        modules[level.end("stages") - 1 - ("a" in level["stages"])].channels[1] for level in levels
    ]
    if any(out % width for out in outs):
        raise ValueError(f"the levels have {outs} channels, which {width} does not divide")
    join = {"m": "skip", "r": "residual"}.get(next(iter(joins), ""), "none")
    # a skip that is concatenated doubles what the next block takes
    doubled = join == "skip" and modules[levels[0].end()].channels[0] == 2 * outs[0]
    # a residual path has the filter's convolution, or an ordinary one
    fir = {"fir": modules[levels[0].end() - 1].has("Conv2d_0")} if join == "residual" else {}
    return {
        "multipliers": tuple(out // width for out in outs),
        "blocks": blocks,
        "attention": tuple(i for i, stage in enumerate(stages) if "a" in stage),
        "progressive_input": join,
        "combine": "cat" if doubled else "sum",
        **fir,
    }


def _infer_output(up: list[NumberedModule], channels: int) -> str:
    """Infer the output path from the first normalisation that stands alone and its convolution."""
    kinds = [module.kind for module in up]
    first = kinds.index("norm") if "norm" in kinds else len(kinds)
    if first >= len(kinds) - 2:
        return "none"
    image = kinds[first + 1] == "conv" and up[first + 1].channels[1] == channels
    return "skip" if image else "residual"
