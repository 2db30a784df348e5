"""The networks in score_sde_pytorch's checkpoints: NCSN++, DDPM++ and DDPM (Song et al. 2021).

They hold `model`, a flat list of modules by number (`module.all_modules.7.Conv_0.weight`), and
`ema`, the averaged parameters in the same order without names. The list is read like a sentence,

    [fourier] linear linear conv  (block [attention])... shrink [join] ...  block attention block

whose words are told apart by the names and shapes of their tensors. Widths, levels, attention, the
form of the blocks and the progressive paths follow from it; what leaves no trace in a tensor is an
option with the published default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ..nn.unet import FIR, UNet
from .score_sde_units import LADDER, Unit, arguments_seen, units_of
from .shared import checked, raw_state

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


def convert(checkpoint: object, *, ema: bool = True, **options: Any) -> Converted:
    """Translate a checkpoint, or its `model` alone.

    Args:
        checkpoint: What the authors saved: a dict, a list that begins with the model, or the model.
        ema: Take the averaged weights; else those of the last step.
        options: What no tensor shows, of the arguments of `UNet`. `fir`, whether sizes change
            through the filter (1, 3, 3, 1): assumed for NCSN++, that is with Fourier features or
            a progressive path (a residual one shows it). `skip_rescale`: assumed for BigGAN's
            blocks. `groups`: assumed 32 for DDPM's blocks, else `None`, min(channels/4, 32).
            `dropout`: assumed 0.1, and 0 where the image leaves by levels.
    """
    model, around = raw_state(checkpoint), checkpoint if isinstance(checkpoint, Mapping) else {}
    units, ladder = units_of(model)
    seen = arguments_seen(units)
    published = _published(seen)
    if unknown := options.keys() - published.keys():
        raise TypeError(f"{sorted(unknown)} can not be chosen: give any of {sorted(published)}")
    for name in options.keys() & seen.keys():
        if options[name] != seen[name]:
            raise ValueError(f"{name}={options[name]}: the checkpoint's keys say {seen[name]}")
    if (groups := options.get("groups")) is not None and groups < 1:
        raise ValueError(f"groups={groups}: give the groups of the normalisations, 1 or more")
    arguments = published | options | seen
    arguments["fir"] = FIR if arguments["fir"] else None
    weights = units_of(_averaged(around, model))[0] if ema else units
    assumed = tuple(published.keys() - options.keys() - seen.keys())
    state = _state(arguments, weights)
    return Converted(arguments, state, ladder, around.get("step"), tuple(sorted(assumed)))


def _averaged(checkpoint: Mapping[str, Any], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model with its averaged parameters, which are stored by order alone."""
    if "ema" not in checkpoint:
        raise ValueError("the checkpoint holds no averaged weights: take the raw ones by ema=False")
    ema = checkpoint["ema"]
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(averages, list) or not all(isinstance(v, Tensor) for v in averages):
        raise ValueError("the checkpoint's ema holds no list of tensors under shadow_params")
    named = [key for key in model if key != LADDER]
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
    return {**model, **{key: checked(f"the average of {key}", value) for key, value in pairs}}


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
        for theirs in unit.tensors:
            key, tensor = _translated(unit, theirs)
            name = f"{ours}.{key}"
            if shapes.pop(name, None) == tensor.shape:
                state[name] = tensor
            else:
                wrong.append(f"all_modules.{unit.number}.{theirs} {tuple(tensor.shape)}")
    if wrong or shapes:
        raise ValueError(f"not in this network: {wrong}; missing: {list(shapes)}")
    return state


def _translated(unit: Unit, theirs: str) -> tuple[str, Tensor]:
    """Our name of a tensor within its module, and the tensor as we keep it."""
    part, _, leaf = theirs.partition(".")
    tensor, ours = unit.tensors[theirs], NAMES[unit.kind]
    if not leaf:
        return ours.get(part, theirs), tensor
    if leaf == "W":  # a linear map of channels, stored input first
        tensor = checked(f"all_modules.{unit.number}.{theirs}", tensor, ndim=2).T[:, :, None, None]
    return (
        f"{ours.get(part, part)}.{'weight' if leaf in ('W', 'weight') else 'bias'}",
        tensor,
    )
