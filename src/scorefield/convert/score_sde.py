"""Checkpoints of score_sde_pytorch (Song et al. 2021): NCSN++, DDPM++ and DDPM.

They hold `model`, a flat list of modules by number (`module.all_modules.7.Conv_0.weight`), and
`ema`, the averaged parameters in the same order without names. The list is read like a sentence,

    [fourier] linear linear conv  (block [attention])... shrink [join] ...  block attention block

whose words are told apart by the names and shapes of their tensors. Widths, levels, attention, the
form of the blocks and the progressive paths follow from it; what leaves no trace in a tensor is an
option with the published default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..nn.unet import FIR, UNet

UNIT = re.compile(r"(?:module\.)?all_modules\.(\d+)\.(.+)")
LADDER = re.compile(r"(?:module\.)?sigmas")

NAMES = {
    "fourier": {"W": "frequencies"},
    "linear": {"weight": "weight", "bias": "bias"},
    "conv": {"weight": "weight", "bias": "bias"},
    "norm": {"weight": "weight", "bias": "bias"},
    "block": {
        "GroupNorm_0": "norm_in",
        "Conv_0": "conv_in",
        "Dense_0": "shift",
        "GroupNorm_1": "norm_out",
        "Conv_1": "conv_out",
        "Conv_2": "shortcut",
        "NIN_0": "shortcut",
    },
    "attention": {
        "GroupNorm_0": "norm",
        "NIN_0": "query",
        "NIN_1": "key",
        "NIN_2": "value",
        "NIN_3": "out",
    },
    "resample": {"Conv_0": "conv", "Conv2d_0": "conv"},
    "combine": {"Conv_0": "conv"},
}
"""For each kind of module, the authors' name of a part and ours."""

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
        return "combine" if self.tensors["Conv_0.weight"].shape[-1] == 1 else "resample"

    def has(self, part: str) -> bool:
        """Whether a part is there."""
        return any(name.split(".")[0] == part for name in self.tensors)

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of a block's, or a convolution's, input and output."""
        weight = self.tensors["Conv_0.weight" if self.kind == "block" else "weight"]
        return weight.shape[1], weight.shape[0]

    @property
    def shrinks(self) -> bool:
        """Whether a block of the way down halves the size: a shortcut that changes no width."""
        return self.has("Conv_2") and self.channels[0] == self.channels[1]


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our terms.

    Attributes:
        arguments: What `UNet` is built with.
        state: The network's tensors.
        sigmas: The ladder that was stored, from the largest σ; `None` if none was.
        step: The training step, if it was stored.
        assumed: Those of the arguments that no tensor shows.
    """

    arguments: dict[str, Any]
    state: dict[str, Tensor]
    sigmas: Tensor | None
    step: int | None
    assumed: tuple[str, ...]

    def build(self) -> UNet:
        """The network with its weights, in evaluation mode."""
        net = UNet(**self.arguments)
        net.load_state_dict(self.state)
        return net.eval()


def load(path: str | Path, **options: Any) -> Converted:
    """Read a checkpoint file; nothing in it is run. The options are those of `convert`."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that are no checkpoint fail in many ways
        raise ValueError(
            f"{path} is not a checkpoint of tensors alone, and is not opened: it is damaged, or "
            "wants to run code when loaded"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a score_sde checkpoint")
    return convert(checkpoint, **options)


def convert(checkpoint: Mapping[str, Any], *, ema: bool = True, **options: Any) -> Converted:
    """Translate a checkpoint, or its `model` alone.

    Args:
        checkpoint: What the authors saved.
        ema: Take the averaged weights; else those of the last step.
        options: What no tensor shows, of the arguments of `UNet`. `fir`, whether sizes change
            through the filter (1, 3, 3, 1): assumed for NCSN++, that is with Fourier features or
            a progressive path (a residual one shows it). `skip_rescale`: assumed for BigGAN's
            blocks. `groups`: assumed 32 for DDPM's blocks, else `None`, min(channels/4, 32).
            `dropout`: assumed 0.1, and 0 where the image leaves by levels.
    """
    model = checkpoint.get("model", checkpoint)
    if not isinstance(model, Mapping) or not all(isinstance(v, Tensor) for v in model.values()):
        raise ValueError(f"not a score_sde checkpoint: it has the keys {list(checkpoint)}")
    units, ladder = _units(model)
    seen = _seen(units)
    published = _published(seen)
    if unknown := options.keys() - published.keys():
        raise TypeError(f"{sorted(unknown)} can not be chosen: give any of {sorted(published)}")
    for name in options.keys() & seen.keys():
        if options[name] != seen[name]:
            raise ValueError(f"{name}={options[name]}: the checkpoint's keys say {seen[name]}")
    arguments = published | options | seen
    arguments["fir"] = FIR if arguments["fir"] else None
    weights = _units(_averaged(checkpoint, model))[0] if ema else units
    assumed = tuple(published.keys() - options.keys() - seen.keys())
    state = _state(arguments, weights)
    return Converted(arguments, state, ladder, checkpoint.get("step"), tuple(sorted(assumed)))


def _units(model: Mapping[str, Tensor]) -> tuple[list[Unit], Tensor | None]:
    """The numbered modules in order, and the ladder."""
    numbered: dict[int, dict[str, Tensor]] = {}
    ladder, strange = None, []
    for key, tensor in model.items():
        if match := UNIT.fullmatch(key):
            numbered.setdefault(int(match[1]), {})[match[2]] = tensor
        elif LADDER.fullmatch(key):
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


def _averaged(checkpoint: Mapping[str, Any], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model with its averaged parameters, which are stored by order alone."""
    if "ema" not in checkpoint:
        raise ValueError("the checkpoint holds no averaged weights: take the raw ones by ema=False")
    averages = checkpoint["ema"]["shadow_params"]
    named = [key for key in model if not LADDER.fullmatch(key)]
    if len(averages) < len(named):  # the frequencies are not trained, and not averaged
        named = [key for key in named if not key.endswith(".W") or ".NIN_" in key]
    pairs = list(zip_longest(named, averages))
    wrong = [
        str(key)
        for key, average in pairs
        if key is None or average is None or average.shape != model[key].shape
    ]
    if wrong:
        raise ValueError(
            f"{len(averages)} averaged tensors do not fit the {len(named)} of the model: {wrong}"
        )
    return {**model, **dict(pairs)}


def _seen(units: list[Unit]) -> dict[str, Any]:
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


def _published(seen: dict[str, Any]) -> dict[str, Any]:
    """The authors' choices for a network like this, of what its tensors do not show."""
    paths = {seen["progressive_input"], seen["progressive_output"]} != {"none"}
    ddpm = seen["form"] == "ddpm"
    return {
        "fir": seen["embedding"] == "fourier" or paths,
        "skip_rescale": not ddpm,
        "groups": 32 if ddpm and not paths else None,
        "dropout": 0.1 if seen["progressive_output"] == "none" else 0.0,
    }


def _layout(arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The authors' order of modules: the kind of each, and our name for it."""
    if arguments["embedding"] == "fourier":
        yield "fourier", "embedding.features"
    yield from (("linear", "embedding.hidden"), ("linear", "embedding.out"), ("conv", "stem"))
    last = len(arguments["multipliers"]) - 1
    for level in range(last + 1):
        yield from _layout_down(arguments, level, level == last)
    yield from (("block", "middle.0"), ("attention", "middle.1"), ("block", "middle.2"))
    for level in reversed(range(last + 1)):
        yield from _layout_up(arguments, level, last - level)
    if arguments["progressive_output"] != "skip":
        yield from (("norm", "head.norm"), ("conv", "head.conv"))


def _layout_down(arguments: dict[str, Any], level: int, lowest: bool) -> Iterator[tuple[str, str]]:
    for i in range(arguments["blocks"]):
        yield "block", f"down.{level}.blocks.{i}"
        if level in arguments["attention"]:
            yield "attention", f"down.{level}.attentions.{i}"
    if not lowest:
        yield _resize(arguments), f"down.{level}.shrink"
        if arguments["progressive_input"] == "skip":
            yield "combine", f"down.{level}.join"
        elif arguments["progressive_input"] == "residual":
            yield "resample", f"down.{level}.join.shrink"


def _layout_up(arguments: dict[str, Any], level: int, place: int) -> Iterator[tuple[str, str]]:
    for i in range(arguments["blocks"] + 1):
        yield "block", f"up.{place}.blocks.{i}"
    if level in arguments["attention"]:
        yield "attention", f"up.{place}.attention"
    output = f"up.{place}.output"
    if arguments["progressive_output"] == "residual" and place > 0:
        yield "resample", f"{output}.grow"
    elif arguments["progressive_output"] != "none":
        head = "head" if arguments["progressive_output"] == "skip" else "start"
        yield from (("norm", f"{output}.{head}.norm"), ("conv", f"{output}.{head}.conv"))
    if level > 0:
        yield _resize(arguments), f"up.{place}.grow"


def _resize(arguments: dict[str, Any]) -> str:
    return "resample" if arguments["form"] == "ddpm" else "block"


def _state(arguments: dict[str, Any], units: list[Unit]) -> dict[str, Tensor]:
    """Our tensors, each from one of theirs; what does not fit is named."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in UNet(**arguments).state_dict().items()}
    state, wrong = {}, []
    for unit, (kind, ours) in zip_longest(units, _layout(arguments), fillvalue=("none", "none")):
        if not isinstance(unit, Unit):
            raise ValueError(f"the checkpoint ends before the {kind} that is {ours} of {arguments}")
        if unit.kind != kind:
            keys = [f"all_modules.{unit.number}.{name}" for name in unit.tensors]
            raise ValueError(f"{keys} are not the {kind} that is {ours} of {arguments}")
        for theirs, tensor in unit.tensors.items():
            key, tensor = _translated(kind, theirs, tensor)
            name = f"{ours}.{key}"
            if shapes.pop(name, None) == tensor.shape:
                state[name] = tensor
            else:
                wrong.append(f"all_modules.{unit.number}.{theirs} {tuple(tensor.shape)}")
    if wrong or shapes:
        raise ValueError(f"not in this network: {wrong}; missing: {list(shapes)}")
    return state


def _translated(kind: str, theirs: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Our name of a tensor within its module, and the tensor as we keep it."""
    part, _, leaf = theirs.partition(".")
    if not leaf:
        return NAMES[kind].get(part, theirs), tensor
    if leaf == "W":  # a linear map of channels, stored input first
        tensor = tensor.T[:, :, None, None]
    return (
        f"{NAMES[kind].get(part, part)}.{'weight' if leaf in ('W', 'weight') else 'bias'}",
        tensor,
    )
