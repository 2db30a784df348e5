"""The networks in score_sde_pytorch's checkpoints: NCSN++, DDPM++ and DDPM (Song et al. 2021).

A checkpoint contains `model`, a flat list of modules (`module.all_modules.7.Conv_0.weight`), and
`ema`, the averaged parameters in the same order without names. The list is

    [fourier] linear linear conv  (block [attention])... resize [join] ...  block attention block ..

Names and shapes of the tensors tell the modules apart. What is inferred from a few of them must
hold for all, or the weights do not fit the network. Properties that no tensor shows are options
with published defaults.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.blocks import Attention, ResidualBlock
from ..nn.embedding import GaussianFourier
from ..nn.levels import DownLevel, SkipInput
from ..nn.resample import Resample
from ..nn.unet import FIR, UNet
from .shared import Report, Weights, check_tensor, load_network

MODULE_KEY = re.compile(r"all_modules\.(\d+)\.(.+)")
MARKS = {"W": "fourier", "Conv2d_0": "resample", "NIN_3": "attention", "Conv_1": "block"}
"""For each kind of module, a part that only such modules have."""
PART_NAMES = {
    "fourier": {"W": "frequencies"},
    "block": {"GroupNorm_0": "norm_in", "Conv_0": "conv_in", "Dense_0": "shift"}
    | {"GroupNorm_1": "norm_out", "Conv_1": "conv_out"}
    | {"Conv_2": "shortcut", "NIN_0": "shortcut"},
    "attention": {"GroupNorm_0": "norm", "NIN_3": "out"}
    | {"NIN_0": "query", "NIN_1": "key", "NIN_2": "value"},
    "resample": {"Conv_0": "conv", "Conv2d_0": "conv"},
    "combine": {"Conv_0": "conv"},
}
"""For each kind of module, the official name of a part and ours."""
LEAF_NAMES = {"W": "weight", "b": "bias"}
LAYERS = {
    "fourier": GaussianFourier,
    "linear": nn.Linear,
    "conv": nn.Conv2d,
    "norm": nn.GroupNorm,
    "block": ResidualBlock,
    "attention": Attention,
    "resample": Resample,
    "combine": SkipInput,
}
"""Our class for each kind of module."""


def build_unet(weights: Weights, *, report: Report, **options: bool | float | None) -> UNet:
    """Build the network of a checkpoint's tensors; what no tensor shows is an option, or assumed.

    Args:
        weights: the tensors by their official names, without the ladder.
        report: called with a line for each value inferred from the tensors, or assumed.
        options: `fir`, the filter (1, 3, 3, 1) in changes of size: for NCSN++, which has Fourier
            features or a progressive path. `skip_rescale`, the division of sums of two branches by
            √2: for BigGAN's blocks. `groups` of all normalisations: 32 for DDPM, else
            min(channels/4, 32). `dropout`: 0.1, and 0 with a progressive output.
    """
    modules = list_modules(weights)
    inferred = infer_arguments(modules)
    options = {name: value for name, value in options.items() if value is not None}
    for name in options.keys() & inferred.keys():
        if options[name] != inferred[name]:
            raise ValueError(f"{name}={options[name]}: the tensors show {inferred[name]}")
    ddpm, progressive = inferred["form"] == "ddpm", is_progressive(inferred)
    published = {
        "fir": inferred["embedding"] == "fourier" or progressive,
        "skip_rescale": not ddpm,
        "groups": 32 if ddpm and not progressive else None,
        "dropout": 0.1 if inferred["progressive_output"] == "none" else 0.0,
    }
    chosen = published | options | inferred
    arguments: dict[str, Any] = chosen | {"fir": FIR if chosen["fir"] else None}
    translation = _translate_unet(arguments, modules)
    net = load_network(partial(UNet, **arguments), translation, "score_sde UNet")
    name = "NCSN++" if progressive or inferred["embedding"] == "fourier" else "DDPM++"
    report(
        f"inferred: {'DDPM' if ddpm and not progressive else name}, {inferred['embedding']} "
        f"embedding, width {inferred['width']} times {inferred['multipliers']}, "
        f"{inferred['blocks']} blocks a level, attention on levels {inferred['attention']}, "
        f"{inferred['channels']} channels"
    )
    for option in sorted(published.keys() - options.keys() - inferred.keys()):
        report(f"assumed: {option} = {chosen[option]}")
    return net


def is_progressive(arguments: Mapping[str, Any]) -> bool:
    """Return True if the image enters or leaves the network at several levels."""
    return {arguments["progressive_input"], arguments["progressive_output"]} != {"none"}


def average_weights(ema: object, weights: Weights) -> dict[str, Tensor]:
    """Return the weights with averaged parameters, which are stored by order alone."""
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(averages, list) or not all(isinstance(v, Tensor) for v in averages):
        raise ValueError("the checkpoint's ema has no list of tensors under shadow_params")
    names = list(weights)
    if len(averages) < len(names):  # the frequencies are not trained, and not averaged
        names = [key for key in names if not key.endswith(".W") or ".NIN_" in key]
    if [v.shape for v in averages] != [weights[key].shape for key in names]:
        raise ValueError(
            f"{len(averages)} averaged tensors do not fit the {len(names)} of the model: take the "
            "raw ones by ema=False"
        )
    pairs = zip(names, averages, strict=True)
    return {**weights, **{key: check_tensor(f"the average of {key}", v) for key, v in pairs}}


# ── The modules and what they imply ──────────────────────────────────────────────────────────────


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


# ── The names of the tensors ──────────────────────────────────────────────────────────────────────


def _layout(module: nn.Module, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each part of a network that has a number, in their order."""
    for kind, layer in LAYERS.items():
        if isinstance(module, layer):
            yield kind, name
            return
    children = [child for child, _ in module.named_children()]
    if isinstance(module, DownLevel):  # blocks and attentions take turns
        parts = children[: 2 if module.attentions else 1]
        turns = [f"{part}.{i}" for i in range(len(module.blocks)) for part in parts]
        children = turns + children[2:]
    for child in children:
        yield from _layout(module.get_submodule(child), f"{name}.{child}".lstrip("."))


def _translate_unet(
    arguments: Mapping[str, Any], modules: list[NumberedModule]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield their name, our name and the tensor, module by module."""
    with torch.device("meta"):
        layout = list(_layout(UNet(**arguments)))
    for module, place in zip_longest(modules, layout):
        kind, ours = place or ("module", "nothing")
        if module is None:
            raise ValueError(f"the checkpoint ends before the {kind} that is {ours} of {arguments}")
        if module.kind != kind:
            raise ValueError(f"{module.keys} are not the {kind} that is {ours} of {arguments}")
        names = LEAF_NAMES | PART_NAMES.get(kind, {})
        for key, (name, tensor) in zip(module.keys, module.tensors.items(), strict=True):
            if name.endswith(".W"):  # a linear map of channels, stored input first
                tensor = check_tensor(key, tensor, ndim=2).T[:, :, None, None]
            full_name = ".".join([ours, *(names.get(part, part) for part in name.split("."))])
            yield key, full_name, tensor
