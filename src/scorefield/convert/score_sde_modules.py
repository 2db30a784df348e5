"""The flat list of modules in score_sde's checkpoints, and the arguments of `UNet` it implies.

    [fourier] linear linear conv  (block [attention])... resize [join] ...  block attention block ..

Names and shapes of the tensors tell the modules apart. What is inferred from a few of them must
hold for all, or the weights do not fit the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .shared import Weights, check_tensor

MODULE_KEY = re.compile(r"all_modules\.(\d+)\.(.+)")
MARKS = {"W": "fourier", "Conv2d_0": "resample", "NIN_3": "attention", "Conv_1": "block"}
"""For each kind of module, a part that only such modules have."""


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
        """Kind of the module, or "unknown"."""
        if "weight" in self.tensors:
            return {1: "norm", 2: "linear", 4: "conv"}.get(self.tensors["weight"].ndim, "unknown")
        kind = next((kind for mark, kind in MARKS.items() if self.has(mark)), "combine")
        if kind in ("block", "combine") and "Conv_0.weight" not in self.tensors:
            return "unknown"
        pointwise = kind != "combine" or self.tensors["Conv_0.weight"].shape[-1:] == (1,)
        return kind if pointwise else "resample"

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
    def resizes(self) -> bool:
        """True if it changes the size: a convolution, or a block with a shortcut of equal width."""
        if self.kind != "block":
            return self.kind == "resample"
        return self.has("Conv_2") and self.channels[0] == self.channels[1]


def list_modules(weights: Weights) -> list[NumberedModule]:
    """Return the modules in order."""
    tensors: dict[int, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        if match := MODULE_KEY.fullmatch(key):
            tensors.setdefault(int(match[1]), {})[match[2]] = tensor
    modules = [NumberedModule(*item) for item in sorted(tensors.items())]
    unknown = [key for key in weights if not MODULE_KEY.fullmatch(key)]
    unknown += [key for module in modules if module.kind == "unknown" for key in module.keys]
    if unknown or not modules:
        raise ValueError(f"not a score_sde network, judged by its keys {unknown or list(weights)}")
    return modules


def infer_arguments(modules: list[NumberedModule]) -> dict[str, Any]:
    """Return the arguments of `UNet` that the tensors determine."""
    kinds = [module.kind for module in modules]
    fourier, conv = kinds[0] == "fourier", kinds.index("conv") if "conv" in kinds else 0
    if kinds[:conv] != ["fourier"] * fourier + ["linear"] * 2:
        raise ValueError(f"not a score_sde UNet: its modules start with {kinds[:4]}")
    channels, width = modules[conv].channels
    return {
        "channels": channels,
        "width": width,
        "form": "biggan" if any(module.has("Conv_2") for module in modules) else "ddpm",
        "embedding": "fourier" if fourier else "sinusoidal",
        **_infer_levels(modules, kinds, channels, width),
    }


def _infer_levels(
    modules: list[NumberedModule], kinds: list[str], channels: int, width: int
) -> dict[str, Any]:
    """Infer levels and paths from each level's first block, the first resize and the first head.

    Each level has as many blocks downwards, one more upwards, and there are two in the middle.
    """
    resizes = [i for i, module in enumerate(modules) if module.resizes]
    blocks = [i for i, kind in enumerate(kinds) if kind == "block" and i not in resizes]
    size = sum(i < resizes[0] for i in blocks) if resizes else (len(blocks) - 3) // 2
    count, rest = divmod(len(blocks) - 2, max(2 * size + 1, 1))
    norm = kinds.index("norm") if "norm" in kinds else len(kinds)
    regular = size > 0 and count > 0 and rest == 0 and bool(resizes) == (count > 1)
    if not regular or kinds[norm + 1 : norm + 2] != ["conv"]:
        raise ValueError(f"not the levels of a score_sde UNet: its modules are {kinds}")
    levels = blocks[: size * count : size]
    outs = [modules[i].channels[1] for i in levels]
    after = kinds[resizes[0] + 1] if resizes else ""
    # a skip that is concatenated doubles what the next block takes
    doubled = after == "combine" and modules[levels[1]].channels[0] == 2 * outs[0]
    leaves = "skip" if modules[norm + 1].channels[1] == channels else "residual"
    return {
        "multipliers": tuple(out // width for out in outs),
        "blocks": size,
        "attention": tuple(n for n, i in enumerate(levels) if kinds[i + 1] == "attention"),
        "progressive_input": {"combine": "skip", "resample": "residual"}.get(after, "none"),
        "combine": "cat" if doubled else "sum",
        "progressive_output": "none" if kinds.count("norm") == 1 else leaves,
        # a residual path has the filter's convolution, or an ordinary one
        **({"fir": modules[resizes[0] + 1].has("Conv2d_0")} if after == "resample" else {}),
    }
